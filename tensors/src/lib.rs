//! Bytes of models: dtypes, safetensors headers, blocks, codecs, packs.
