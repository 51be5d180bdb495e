//! Figures of a module on data that it is not trained on.

use tch::{Device, Kind, Tensor, no_grad};

use crate::Problem;
use crate::data::Data;
use crate::measure::{Loss, Measured, Sum};
use crate::module::Module;

/// Measures on all examples.
///
/// # Errors
/// What the module or the loss refuses.
pub fn all(module: &mut Module, data: &Data, loss: Loss, batch: i64) -> Result<Measured, Problem> {
    some(module, data, &Tensor::f_arange(data.count, (Kind::Int64, Device::Cpu))?, loss, batch)
}

/// Measures on some of the examples, by their numbers.
///
/// # Errors
/// What the module or the loss refuses; figures that are not finite.
pub fn some(
    module: &mut Module,
    data: &Data,
    rows: &Tensor,
    loss: Loss,
    batch: i64,
) -> Result<Measured, Problem> {
    module.mode(false)?;
    let count = rows.size1()?;
    let mut sum = Sum::default();
    let mut start = 0;
    while start < count {
        let length = batch.min(count - start);
        let (inputs, targets) = data.rows(&rows.f_narrow(0, start, length)?)?;
        no_grad(|| sum.add(loss, &module.forward(&inputs)?, &targets, length))?;
        start += length;
    }
    let measured = sum.measured();
    if measured.loss.is_finite() {
        return Ok(measured);
    }
    Err(Problem::new(format!("the loss is {}: no figure can be told", measured.loss)))
}
