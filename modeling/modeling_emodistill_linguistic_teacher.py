"""EmoDistill's linguistic teacher: emotion from the words alone, by a BERT (arXiv 2309.04849)."""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .attention_graph_fusion import masked_mean
from .configuration_emodistill import EmoDistillLinguisticTeacherConfig
from .layers_emodistill import EmoDistillTeacherOutput, check_mask, weighted_cross_entropy


class EmoDistillLinguisticTeacher(PreTrainedModel):
    """Text encoder -> pooled first token or mean over the tokens -> linear layer; `pipeline("text-classification")` runs it."""

    config: EmoDistillLinguisticTeacherConfig
    base_model_prefix = "emodistill_linguistic_teacher"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: EmoDistillLinguisticTeacherConfig):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.text_config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.text_config.hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings `(batch, hidden size of the text encoder)`; arguments as of `forward`."""
        mask = check_mask(attention_mask, "attention_mask", input_ids)
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.encoder(input_ids, attention_mask=mask.long(), **types)
        if self.config.pooling == "cls":
            return outputs.pooler_output
        return masked_mean(outputs.last_hidden_state, mask)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> EmoDistillTeacherOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Tokens, with the first and last that the encoder wants.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 0 at padding on the right.
            token_type_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*): For encoders that have them.
            embeddings (`torch.FloatTensor` of shape `(batch, hidden size of the text encoder)`, *optional*):
                What `embed` made beforehand, instead of all of the above (for an encoder that is not trained).
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes, 0..num_labels - 1.

        Returns:
            [`EmoDistillTeacherOutput`]; `embeddings` `(batch, hidden size of the text encoder)`.

        Raises:
            ValueError: Not one of `input_ids` and `embeddings` is given, or `attention_mask` is malformed.
        """
        if (input_ids is None) == (embeddings is None):
            raise ValueError("one of `input_ids` and `embeddings` must be given")
        if embeddings is None:
            embeddings = self.embed(input_ids, attention_mask, token_type_ids)
        logits = self.classifier(self.dropout(embeddings))
        loss = None if labels is None else weighted_cross_entropy(logits, labels, self.config)
        return EmoDistillTeacherOutput(loss=loss, logits=logits, embeddings=embeddings)


__all__ = ["EmoDistillLinguisticTeacher"]
