//! The loop: batches in an order that the seed gives, a step of the optimiser for each.

use std::sync::atomic::{AtomicBool, Ordering};

use tch::{COptimizer, Device, Kind, Tensor};

use crate::Problem;
use crate::data::Data;
use crate::evaluate;
use crate::measure::{Loss, Measured};
use crate::module::Module;

/// Which examples are held out does not depend on the seed of a training: the next one must not train on them.
const HELD: i64 = 0;

/// How weights are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Optimizer {
    /// Stochastic gradient descent, with --momentum where wanted
    Sgd,
    /// Adam (Kingma and Ba, 2015)
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019)
    Adamw,
}

/// How to train.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Passes over the data.
    pub epochs: u64,
    /// Examples in a batch.
    pub batch: i64,
    /// How weights are changed.
    pub optimizer: Optimizer,
    /// The learning rate.
    pub rate: f64,
    /// The momentum of gradient descent.
    pub momentum: f64,
    /// The weight decay.
    pub decay: f64,
    /// What is made small.
    pub loss: Loss,
    /// Gives the order of examples, and what else is random.
    pub seed: u32,
    /// The share of examples that are not trained on.
    pub hold_out: f64,
}

/// How far a training got.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Whole passes over the data.
    pub epochs: u64,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Examples that are trained on.
    pub examples: u64,
    /// The mean loss of the last whole pass, while it trained.
    pub loss: Option<f64>,
    /// Figures on what was held out, after the last whole pass.
    pub held: Option<Measured>,
}

/// Trains a module. `progress` says how far it got however it ends, and is told after each pass.
///
/// # Errors
/// What the module or the loss refuses; a loss that is not finite; `stop`.
pub fn train(
    module: &mut Module,
    data: &Data,
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut Progress,
    tell: impl Fn(&Progress),
) -> Result<(), Problem> {
    let (rows, held) = parted(data.count, plan.hold_out)?;
    progress.examples = rows.size1()?.unsigned_abs();
    tch::manual_seed(i64::from(plan.seed));
    let trained = module.trained()?;
    let optimizer = optimizer(plan, trained.iter().map(|(tensor, _)| tensor))?;
    for epoch in 1..=plan.epochs {
        module.mode(true)?;
        let order = rows.f_index_select(0, &permutation(rows.size1()?)?)?;
        let mut sum = 0.0;
        for (start, length) in batches(order.size1()?, plan.batch) {
            if stop.load(Ordering::Relaxed) {
                return Err(Problem::new(format!(
                    "stopped in epoch {epoch}, after {} steps",
                    progress.steps
                ))
                .exit(130));
            }
            let (inputs, targets) = data.rows(&order.f_narrow(0, start, length)?)?;
            optimizer.zero_grad()?;
            clear(&trained)?;
            let loss = plan.loss.of(&module.forward(&inputs)?, &targets)?;
            let value = loss.f_double_value(&[])?;
            if !value.is_finite() {
                let why = format!(
                    "the loss is {value} in epoch {epoch}, after {} steps: training diverged",
                    progress.steps
                );
                return Err(Problem::new(why).help("try a smaller --lr"));
            }
            joined(loss, &trained)?.f_backward()?;
            gather(&trained)?;
            optimizer.step()?;
            progress.steps += 1;
            sum += value * length as f64;
        }
        module.check_own()?;
        progress.held = match &held {
            Some(held) => Some(evaluate::some(module, data, held, plan.loss, plan.batch)?),
            None => None,
        };
        progress.loss = Some(sum / progress.examples.max(1) as f64);
        progress.epochs = epoch;
        tell(progress);
    }
    Ok(())
}

/// Numbers of the examples to train on, and of those that are held out.
fn parted(count: i64, share: f64) -> Result<(Tensor, Option<Tensor>), Problem> {
    let held = (count as f64 * share).round() as i64;
    if held == 0 {
        return Ok((Tensor::f_arange(count, (Kind::Int64, Device::Cpu))?, None));
    }
    if held >= count {
        return Err(Problem::new(format!("of {count} examples none is left to train on"))
            .help("hold out fewer, with --hold-out"));
    }
    tch::manual_seed(HELD);
    let order = permutation(count)?;
    Ok((order.f_narrow(0, held, count - held)?, Some(order.f_narrow(0, 0, held)?)))
}

fn permutation(count: i64) -> Result<Tensor, Problem> {
    Ok(Tensor::f_randperm(count, (Kind::Int64, Device::Cpu))?)
}

/// Starts and lengths of batches. A last one of a single example goes with the one before: batch-norm can't train on it.
fn batches(count: i64, size: i64) -> Vec<(i64, i64)> {
    let mut batches = Vec::new();
    let mut start = 0;
    while start < count {
        let left = count - start;
        let length = if size > 1 && left == size + 1 { left } else { left.min(size) };
        batches.push((start, length));
        start += length;
    }
    batches
}

fn optimizer<'a>(plan: &Plan, tensors: impl Iterator<Item = &'a Tensor>) -> Result<COptimizer, Problem> {
    // What PyTorch has where nothing is said.
    let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
    let mut made = match plan.optimizer {
        Optimizer::Sgd => COptimizer::sgd(plan.rate, plan.momentum, 0.0, plan.decay, false)?,
        Optimizer::Adam => COptimizer::adam(plan.rate, beta1, beta2, plan.decay, epsilon, false)?,
        Optimizer::Adamw => COptimizer::adamw(plan.rate, beta1, beta2, plan.decay, epsilon, false)?,
    };
    for tensor in tensors {
        made.add_parameters(tensor, 0)?;
    }
    Ok(made)
}

/// A tied tensor's other names have gradients of their own, which the optimiser does not know.
fn clear(trained: &[(Tensor, Vec<Tensor>)]) -> Result<(), Problem> {
    for other in trained.iter().flat_map(|(_, others)| others) {
        let mut gradient = other.f_grad()?;
        if gradient.defined() {
            let _ = gradient.f_detach_()?.f_zero_()?;
        }
    }
    Ok(())
}

/// The loss, with every tied tensor in it under its first name too, so that there is a gradient to add to.
fn joined(loss: Tensor, trained: &[(Tensor, Vec<Tensor>)]) -> Result<Tensor, Problem> {
    let mut all = loss;
    for (first, _) in trained.iter().filter(|(_, others)| !others.is_empty()) {
        all = all.f_add(&first.f_sum(all.f_kind()?)?.f_mul_scalar(0.0)?)?;
    }
    Ok(all)
}

/// The gradient of a tied tensor is the sum of those under its names.
fn gather(trained: &[(Tensor, Vec<Tensor>)]) -> Result<(), Problem> {
    for (first, others) in trained {
        for other in others {
            let gradient = other.f_grad()?;
            let mut sum = first.f_grad()?;
            // Two names of one variable have one gradient, which is the sum already.
            if !gradient.defined() || gradient.data_ptr() == sum.data_ptr() {
                continue;
            }
            let _ = tch::no_grad(|| sum.f_add_(&gradient))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_every_example_once_and_the_last_is_never_alone() {
        for (count, size) in [(1, 1), (1, 4), (8, 4), (9, 4), (10, 4), (5, 1), (2, 1)] {
            let batches = batches(count, size);
            let mut next = 0;
            for (start, length) in &batches {
                assert_eq!(*start, next);
                assert!(*length <= size + 1 && (*length > 1 || count == 1 || size == 1), "{count} by {size}");
                next += length;
            }
            assert_eq!(next, count);
        }
    }

    #[test]
    fn the_same_examples_are_held_out_whatever_was_random_before() {
        let held = |seed| {
            tch::manual_seed(seed);
            let (rows, held) = parted(10, 0.3).unwrap();
            let numbers = |tensor: Tensor| Vec::<i64>::try_from(tensor).unwrap();
            (numbers(rows), numbers(held.unwrap()))
        };
        let (rows, out) = held(1);
        assert_eq!((rows.len(), out.len()), (7, 3));
        assert!(rows.iter().all(|row| !out.contains(row)));
        assert_eq!(held(2), (rows, out));
        assert!(parted(10, 0.0).unwrap().1.is_none());
        assert!(parted(1, 0.9).is_err());
    }
}
