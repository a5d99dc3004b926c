"""Descriptions of scores for the documentation: what each measures, what it needs, its range and its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Description:
    """The documentation of one score."""

    meaning: str
    needs: str
    range: str
    source: str


LOCO_I = "Weinberger, Seroussi, Sapiro 2000, IEEE Trans. Image Process. 9:1309, eq. 1"
KYNKAANNIEMI = "Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2"
NAEEM = "Naeem et al. 2020, arXiv 2002.09797, eq. 4 and 5"
COSINE = "−100 to 100"

DESCRIPTIONS = {
    "fid": Description(
        "Squared Fréchet distance between Gaussians fitted to the features of the images and of the reference images. "
        "`value` equals that of torchmetrics, torch-fidelity and clean-fid; `debiased` is without the bias of a finite "
        "number of images.",
        "evaluator, reference images",
        "0 and above; `debiased` may be slightly negative",
        "Heusel et al. 2017, arXiv 1706.08500, eq. 6",
    ),
    "kid": Description(
        "Unbiased squared maximum mean discrepancy with a cubic kernel, over all pairs of images.",
        "evaluator, reference images",
        "about 0 and above; may be slightly negative",
        "Bińkowski et al. 2018, arXiv 1801.01401; Gretton et al. 2012, JMLR 13:723, eq. 3",
    ),
    "cmmd": Description(
        "1000 × maximum mean discrepancy with a Gaussian kernel, of features of unit length.",
        "evaluator, reference images",
        "0 and above; `debiased` may be slightly negative",
        "Jayasumana et al. 2024, arXiv 2401.09603",
    ),
    "attribute_accuracy": Description(
        "Share of the attributes named by the prompt for which the image is closer to the prompt than to every prompt "
        "with another value of that attribute.",
        "evaluator, prompts of the miniature's world",
        "0 to 1",
        "this project",
    ),
    "masked_fid": Description(
        "`fid` between outputs and inputs, both grey outside the mask.", "evaluator, masks", "0 and above", "as `fid`"
    ),
    "precision": Description(
        "Share of the images that lie within the distance to the third nearest neighbour of some reference image.",
        "evaluator, reference images",
        "0 to 1",
        KYNKAANNIEMI,
    ),
    "recall": Description(
        "Share of the reference images that lie within the distance to the third nearest neighbour of some image.",
        "evaluator, reference images",
        "0 to 1",
        KYNKAANNIEMI,
    ),
    "density": Description(
        "Mean number of reference neighbourhoods (five nearest neighbours) that contain an image, divided by five.",
        "evaluator, reference images",
        "0 and above; 1 is expected of the reference distribution",
        NAEEM,
    ),
    "coverage": Description(
        "Share of the reference neighbourhoods (five nearest neighbours) that contain an image.",
        "evaluator, reference images",
        "0 to 1",
        NAEEM,
    ),
    "clip_score": Description(
        "100 × cosine of the embeddings of image and caption.",
        "evaluator, captions",
        COSINE,
        "Hessel et al. 2021, arXiv 2104.08718, without its factor and cut-off at 0",
    ),
    "sharpness": Description(
        "Root mean square of the Laplacian of the luma: blur lowers it, noise raises it. It is a proxy for detail, "
        "wanted or not.",
        "pixels",
        "0 and above, levels of 255",
        "Pech-Pacheco et al. 2000, ICPR, as a standard deviation",
    ),
    "bits_per_pixel": Description(
        "Entropy of the residuals of a lossless predictor, over all channels.", "pixels", "0 to 24 bits", LOCO_I
    ),
    "high_frequency": Description(
        "Root mean square of the luma's frequencies above a quarter of a cycle per pixel.",
        "pixels",
        "0 and above, levels of 255",
        "Parseval's theorem, with a Hann window",
    ),
    "gradient_entropy": Description(
        "Entropy of the magnitudes of the luma's gradients, averaged over three scales.",
        "pixels",
        "0 and above, bits",
        "Shannon entropy",
    ),
    "pick_score": Description(
        "Preference for the image given the prompt: a CLIP's cosine times its logit scale.",
        "checkpoint of PickScore, captions",
        "about 15 to 25 in practice",
        "Kirstain et al. 2023, arXiv 2305.01569",
    ),
    "image_reward": Description(
        "Preference for the image given the prompt, standardised over the authors' validation set.",
        "checkpoint of ImageReward, vocabulary of BERT, captions",
        "about −2.3 to 2 in practice",
        "Xu et al. 2023, arXiv 2304.05977",
    ),
    "aesthetic_score": Description(
        "Aesthetic rating of the image; the prompt is not used.",
        "checkpoint of the LAION predictor, CLIP ViT-L/14",
        "about 1 to 10",
        "Schuhmann 2022, improved-aesthetic-predictor",
    ),
    "image_complexity": Description(
        "Complexity as rated by people; the prompt is not used.",
        "checkpoint of ICNet",
        "0 to 1",
        "Feng et al. 2023, IEEE TPAMI 45:8577",
    ),
    "style_similarity": Description(
        "100 × cosine of the embeddings of the image and of the name of the style.",
        "evaluator, `task.style`",
        COSINE,
        "CLIP, arXiv 2103.00020",
    ),
    "image_similarity": Description(
        "100 × cosine of the embeddings of the image and of the image prompt.",
        "evaluator",
        COSINE,
        "CLIP, arXiv 2103.00020",
    ),
    "background_psnr": Description(
        "Peak signal-to-noise ratio between output and input outside the mask.",
        "pixels, masks",
        "0 to 58.9 dB, where outputs and inputs are equal to the rounding of 8 bits",
        "definition of PSNR",
    ),
    "background_lpips": Description(
        "Perceptual distance between output and input outside the mask, by AlexNet.",
        "checkpoint of AlexNet, masks",
        "0 and above",
        "Zhang et al. 2018, arXiv 1801.03924, version 0.1",
    ),
    "edge_agreement": Description(
        "F1 of the edges of the image and the edges that were given, matched within 0.5% of the width.",
        "Canny edges",
        "0 to 1",
        "Martin, Fowlkes, Malik 2004, IEEE TPAMI 26:530, without one-to-one assignment",
    ),
    "depth_error": Description(
        "Mean absolute difference of the depth of the image and the depth that was given.",
        "depth estimator (`task.estimator`)",
        "0 to 1",
        "mean absolute error",
    ),
    "temporal_consistency": Description(
        "100 × mean cosine of the embeddings of neighbouring frames.", "evaluator", COSINE, "CLIP, arXiv 2103.00020"
    ),
    "flicker": Description(
        "Half the mean absolute second difference in time; 0 for a steady fade.",
        "pixels",
        "0 to 255 levels",
        "this project",
    ),
}
