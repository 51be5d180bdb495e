//! What is computed: exact kernels, policies, diffs, over streams of blocks.
