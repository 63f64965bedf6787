"""TFX components of FP-TFRS: each file is one node's contract (artifacts in, artifacts out); the work is in fp_tfrs/."""
