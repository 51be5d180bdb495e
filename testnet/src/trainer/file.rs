//! The model file, by the names and shapes a PyTorch script would give it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};

use super::{Network, TrainerError};

/// The counter of batches, the one tensor that is not f32.
const COUNTER: &str = "bn1.num_batches_tracked";

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

pub(super) fn write(network: &Network, path: &Path) -> Result<(), TrainerError> {
    let mut tensors = BTreeMap::new();
    for (name, shape, values) in network.tensors() {
        let bytes = values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
        tensors.insert(name, Tensor { dtype: Dtype::F32, shape, bytes });
    }
    let bytes = network.num_batches_tracked().to_le_bytes().to_vec();
    tensors.insert(COUNTER, Tensor { dtype: Dtype::I64, shape: Vec::new(), bytes });
    // What `safetensors.torch.save_file` writes; one entry, so its order cannot vary.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(&tensors, Some(metadata), path)
        .map_err(|source| TrainerError::Tensors { path: path.into(), source })
}

pub(super) fn read(path: &Path) -> Result<Network, TrainerError> {
    let bytes = std::fs::read(path).map_err(|source| TrainerError::Read { path: path.into(), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| TrainerError::Tensors { path: path.into(), source })?;
    let take = |name: &str, dtype: Dtype, shape: &[usize]| {
        let tensor =
            file.tensor(name).map_err(|source| TrainerError::Tensors { path: path.into(), source })?;
        if tensor.dtype() != dtype || tensor.shape() != shape {
            return Err(TrainerError::Shape {
                path: path.into(),
                name: name.into(),
                found: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                expected: format!("{dtype:?} {shape:?}"),
            });
        }
        Ok(tensor.data())
    };

    let mut network = Network::init(0);
    for (name, shape, values) in network.tensors_mut() {
        let data = take(name, Dtype::F32, &shape)?;
        for (value, bytes) in values.iter_mut().zip(data.as_chunks::<4>().0) {
            *value = f64::from(f32::from_le_bytes(*bytes));
        }
    }
    if let Some(bytes) = take(COUNTER, Dtype::I64, &[])?.first_chunk() {
        network.set_num_batches_tracked(i64::from_le_bytes(*bytes));
    }
    Ok(network)
}
