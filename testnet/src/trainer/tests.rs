use super::*;
use crate::digits;

#[test]
fn gradients_agree_with_finite_differences() {
    let images = digits::all().unwrap();
    let batch: Vec<&Image> = images.iter().take(7).collect();
    let mut network = Network::init(3);
    // Off its neutral start, so that every term of the batch-norm's gradient counts.
    for (index, value) in network.bn1.weight.iter_mut().enumerate() {
        *value = 0.5 + index as f64 / 20.0;
    }
    let (_, gradients) = network.slope(&batch);
    let step = 1e-5;
    for (tensor, gradient) in gradients.iter().enumerate() {
        for index in (0..gradient.len()).step_by(1 + gradient.len() / 40) {
            let loss_at = |offset: f64| {
                let mut moved = network.clone();
                moved.trained_mut()[tensor][index] += offset;
                moved.slope(&batch).0
            };
            let numeric = (loss_at(step) - loss_at(-step)) / (2.0 * step);
            let error = (numeric - gradient[index]).abs();
            assert!(
                error < 1e-7 + 1e-5 * numeric.abs(),
                "tensor {tensor}[{index}]: {} by formula, {numeric} by difference",
                gradient[index]
            );
        }
    }
}

#[test]
fn a_saved_network_loads_bit_for_bit_and_writes_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    let images = digits::all().unwrap();
    let mut network = Network::init(1);
    let how = Training { epochs: 1, batch: 32, learning_rate: 0.1, momentum: 0.9, seed: 1 };
    network.train(&images[..200], &how).unwrap();
    network.save(&first).unwrap();
    let loaded = Network::load(&first).unwrap();
    loaded.save(&second).unwrap();
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    assert_eq!(loaded.num_batches_tracked(), 7);
    assert_eq!(Network::load(&second).unwrap(), loaded);
    assert!((loaded.accuracy(&images) - network.accuracy(&images)).abs() < 0.002);
}

#[test]
fn the_file_has_the_names_a_pytorch_script_gives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    Network::init(1).save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let expected = [
        "bn1.bias",
        "bn1.num_batches_tracked",
        "bn1.running_mean",
        "bn1.running_var",
        "bn1.weight",
        "fc1.bias",
        "fc1.weight",
        "fc2.bias",
        "fc2.weight",
    ];
    assert_eq!(names, expected);
    assert_eq!(file.tensor("fc1.weight").unwrap().shape(), [32, 64]);
    let counter = file.tensor("bn1.num_batches_tracked").unwrap();
    assert_eq!((counter.dtype(), counter.shape().len()), (safetensors::Dtype::I64, 0));
}

#[test]
fn a_file_of_another_network_is_refused_by_tensor_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &[0; 8]).unwrap();
    safetensors::serialize_to_file([("fc1.weight", view)], None, &path).unwrap();
    let error = Network::load(&path).unwrap_err().to_string();
    assert!(error.contains("fc1.weight") && error.contains("[32, 64]"), "{error}");
    std::fs::write(&path, b"not a model").unwrap();
    assert!(matches!(Network::load(&path), Err(TrainerError::Tensors { .. })));
}

#[test]
fn the_same_seed_trains_the_same_network() {
    let images = digits::all().unwrap();
    let train = |seed| {
        let mut network = Network::init(5);
        let how = Training { epochs: 1, batch: 32, learning_rate: 0.1, momentum: 0.9, seed };
        network.train(&images[..300], &how).unwrap();
        network
    };
    assert_eq!(train(1), train(1));
    assert_ne!(train(1), train(2));
}

#[test]
fn a_batch_of_one_is_refused() {
    let images = digits::all().unwrap();
    let how = Training { epochs: 1, batch: 32, learning_rate: 0.1, momentum: 0.9, seed: 1 };
    assert!(Network::init(1).train(&images[..1], &how).is_err());
    assert!(Network::init(1).train(&images[..9], &Training { batch: 1, ..how }).is_err());
    assert!(Network::init(1).train(&images[..33], &how).is_ok());
}
