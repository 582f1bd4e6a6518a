from itertools import groupby

import pytest
import torch
from transformers import BertForPreTraining

from hf_affectcodec.teachers.text import CTCRecognizer, TextTeacher


def test_vectors_of_given_transcripts(bert):
    model, tokenizer = bert
    teacher = TextTeacher(model, tokenizer)
    vectors, lengths = teacher(transcripts=["We are not amused", "", "not amused", "  "])
    assert vectors.shape == (4, 4, 16) and lengths.tolist() == [4, 0, 2, 0]
    assert not vectors.requires_grad
    # [CLS] and [SEP] are seen but not returned; the mean of 3 hidden states; nothing depends on the batch
    states = model(torch.tensor([[2, 6, 7, 3]]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(vectors[2, :2], sum(states)[0, 1:3] / 3)
    assert torch.equal(teacher(transcripts=["not amused"]).vectors[0], vectors[2, :2])
    assert (vectors[1] == 0).all() and (vectors[2, 2:] == 0).all()
    assert teacher(transcripts=["", ""]).vectors.shape == (2, 0, 16)


def test_longer_than_the_positions(bert):
    teacher = TextTeacher(*bert)  # 12 positions, 10 of them for words
    words = ["we", "are", "not", "amused"] * 6
    whole = teacher.embed(" ".join(words))
    assert whole.shape == (24, 16)
    for begin, end in ((0, 10), (10, 20), (20, 24)):
        assert torch.equal(whole[begin:end], teacher.embed(" ".join(words[begin:end])))


def test_greedy_recognition(ctc, bert, synthesize_speech):
    model, processor = ctc
    recognizer = CTCRecognizer(model, processor)
    waveforms = [torch.from_numpy(synthesize_speech(seconds, seed=1)) for seconds in (1.0, 0.01, 0.4)]
    transcripts = recognizer(waveforms)
    assert transcripts == [recognizer([waveform])[0] for waveform in waveforms]

    inputs = processor(waveforms[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    best = [index for index, _ in groupby(model(**inputs).logits[0].argmax(-1).tolist())]
    letters = processor.tokenizer.convert_ids_to_tokens(best)
    expected = "".join({"|": " "}.get(x, x) for x in letters if x not in ("<pad>", "<s>", "</s>", "<unk>"))
    plain = transcripts[0].replace("<unk>", "").replace("<s>", "").replace("</s>", "")
    assert plain.split() == expected.strip().lower().split()

    teacher = TextTeacher(*bert, recognizer)
    recognized = teacher(waveforms)
    assert torch.equal(recognized.vectors, teacher(transcripts=transcripts).vectors)


def test_loading(bert, ctc, tmp_path, synthesize_speech):
    pretraining = BertForPreTraining(bert[0].config)  # what google-bert/bert-base-uncased holds
    pretraining.bert.load_state_dict(bert[0].state_dict())
    for folder, parts in (("bert", (pretraining, bert[1])), ("ctc", ctc)):
        for part in parts:
            part.save_pretrained(tmp_path / folder)
    waveform = torch.from_numpy(synthesize_speech(1.0))
    loaded = TextTeacher.from_pretrained(tmp_path / "bert", tmp_path / "ctc")
    assert loaded.transcribe([waveform]) == CTCRecognizer(*ctc)([waveform])
    assert torch.equal(loaded.embed("not amused"), TextTeacher(*bert).embed("not amused"))
    assert len(loaded.description["recognizer"]["weights_sha256"]) == 64
    given = TextTeacher.from_pretrained(tmp_path / "bert", recognizer=None)
    with pytest.raises(ValueError, match="`transcripts` must be given"):
        given([waveform])
    with pytest.raises(ValueError, match="`waveforms` or `transcripts`"):
        loaded()
