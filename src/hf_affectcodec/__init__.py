"""AffectCodec (arXiv 2605.11098) for transformers. Importing the package registers its models in the Auto classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioTokenization,
    AutoModelForSequenceClassification,
    AutoModelForTextToWaveform,
    AutoProcessor,
)

from .modeling.configuration_affectcodec import AffectCodecConfig
from .modeling.configuration_affectcodec_discriminator import AffectCodecDiscriminatorConfig
from .modeling.configuration_affectcodec_tts import AffectCodecTTSConfig
from .modeling.configuration_emodistill import (
    EmoDistillConfig,
    EmoDistillLinguisticTeacherConfig,
    EmoDistillProsodicTeacherConfig,
)
from .modeling.configuration_graph_fusion import GraphFusionConfig
from .modeling.configuration_ser_ensemble import SEREnsembleConfig
from .modeling.configuration_token_fusion import TokenFusionConfig
from .modeling.feature_extraction_affectcodec import AffectCodecFeatureExtractor
from .modeling.feature_extraction_emodistill import (
    EmoDistillFeatureExtractor,
    EmoDistillProsodicTeacherFeatureExtractor,
)
from .modeling.feature_extraction_graph_fusion import GraphFusionFeatureExtractor
from .modeling.feature_extraction_token_fusion import TokenFusionFeatureExtractor
from .modeling.modeling_affectcodec import AffectCodecModel
from .modeling.modeling_affectcodec_discriminator import AffectCodecDiscriminator
from .modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration
from .modeling.modeling_emodistill import EmoDistillForAudioClassification
from .modeling.modeling_emodistill_linguistic_teacher import EmoDistillLinguisticTeacher
from .modeling.modeling_emodistill_prosodic_teacher import EmoDistillProsodicTeacher
from .modeling.modeling_graph_fusion import GraphFusionForAudioClassification
from .modeling.modeling_ser_ensemble import SEREnsembleForAudioClassification
from .modeling.modeling_token_fusion import TokenFusionForAudioClassification
from .modeling.processing_affectcodec_tts import AffectCodecTTSProcessor
from .modeling.processing_graph_fusion import GraphFusionProcessor
from .shipped import pretrained_path


__version__ = "0.1.0"


def register():
    """Puts every class into transformers' Auto classes; calling it again changes nothing."""
    AutoConfig.register("affectcodec", AffectCodecConfig, exist_ok=True)
    AutoModel.register(AffectCodecConfig, AffectCodecModel, exist_ok=True)
    AutoModelForAudioTokenization.register(AffectCodecConfig, AffectCodecModel, exist_ok=True)
    AutoFeatureExtractor.register(AffectCodecConfig, AffectCodecFeatureExtractor, exist_ok=True)
    AutoConfig.register("affectcodec_discriminator", AffectCodecDiscriminatorConfig, exist_ok=True)
    AutoModel.register(AffectCodecDiscriminatorConfig, AffectCodecDiscriminator, exist_ok=True)
    AutoConfig.register("affectcodec_tts", AffectCodecTTSConfig, exist_ok=True)
    AutoModel.register(AffectCodecTTSConfig, AffectCodecTTSForConditionalGeneration, exist_ok=True)
    AutoModelForTextToWaveform.register(AffectCodecTTSConfig, AffectCodecTTSForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(AffectCodecTTSConfig, AffectCodecTTSProcessor, exist_ok=True)
    AutoConfig.register("emodistill", EmoDistillConfig, exist_ok=True)
    AutoModelForAudioClassification.register(EmoDistillConfig, EmoDistillForAudioClassification, exist_ok=True)
    AutoFeatureExtractor.register(EmoDistillConfig, EmoDistillFeatureExtractor, exist_ok=True)
    AutoConfig.register("emodistill_prosodic_teacher", EmoDistillProsodicTeacherConfig, exist_ok=True)
    AutoModelForAudioClassification.register(EmoDistillProsodicTeacherConfig, EmoDistillProsodicTeacher, exist_ok=True)
    AutoFeatureExtractor.register(
        EmoDistillProsodicTeacherConfig, EmoDistillProsodicTeacherFeatureExtractor, exist_ok=True
    )
    AutoConfig.register("emodistill_linguistic_teacher", EmoDistillLinguisticTeacherConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        EmoDistillLinguisticTeacherConfig, EmoDistillLinguisticTeacher, exist_ok=True
    )
    AutoConfig.register("graph_fusion", GraphFusionConfig, exist_ok=True)
    AutoModelForAudioClassification.register(GraphFusionConfig, GraphFusionForAudioClassification, exist_ok=True)
    AutoFeatureExtractor.register(GraphFusionConfig, GraphFusionFeatureExtractor, exist_ok=True)
    AutoProcessor.register(GraphFusionConfig, GraphFusionProcessor, exist_ok=True)
    AutoConfig.register("ser_ensemble", SEREnsembleConfig, exist_ok=True)
    AutoModelForAudioClassification.register(SEREnsembleConfig, SEREnsembleForAudioClassification, exist_ok=True)
    AutoFeatureExtractor.register(SEREnsembleConfig, AffectCodecFeatureExtractor, exist_ok=True)
    AutoConfig.register("token_fusion", TokenFusionConfig, exist_ok=True)
    AutoModelForAudioClassification.register(TokenFusionConfig, TokenFusionForAudioClassification, exist_ok=True)
    AutoFeatureExtractor.register(TokenFusionConfig, TokenFusionFeatureExtractor, exist_ok=True)


register()

__all__ = [
    "AffectCodecConfig",
    "AffectCodecDiscriminator",
    "AffectCodecDiscriminatorConfig",
    "AffectCodecFeatureExtractor",
    "AffectCodecModel",
    "AffectCodecTTSConfig",
    "AffectCodecTTSForConditionalGeneration",
    "AffectCodecTTSProcessor",
    "EmoDistillConfig",
    "EmoDistillFeatureExtractor",
    "EmoDistillForAudioClassification",
    "EmoDistillLinguisticTeacher",
    "EmoDistillLinguisticTeacherConfig",
    "EmoDistillProsodicTeacher",
    "EmoDistillProsodicTeacherConfig",
    "EmoDistillProsodicTeacherFeatureExtractor",
    "GraphFusionConfig",
    "GraphFusionFeatureExtractor",
    "GraphFusionForAudioClassification",
    "GraphFusionProcessor",
    "SEREnsembleConfig",
    "SEREnsembleForAudioClassification",
    "TokenFusionConfig",
    "TokenFusionFeatureExtractor",
    "TokenFusionForAudioClassification",
    "pretrained_path",
    "register",
]
