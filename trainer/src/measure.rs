//! Losses that are trained, and figures that are told.

use serde::Serialize;
use tch::{Kind, Reduction, Tensor};

use crate::Problem;
use crate::module::is_float;

/// What training makes small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Loss {
    /// Of classes: outputs are a logit for each class, targets the numbers of classes.
    CrossEntropy,
    /// Of numbers: the mean squared error.
    Mse,
    /// Of yes and no: outputs are logits, targets 0 and 1 (or between).
    Bce,
}

/// Figures of a model on some data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The mean loss.
    pub loss: f64,
    /// The share of targets that were met; none for numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The area under the ROC curve; none but for two classes of which both occur.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auc: Option<f64>,
    /// On how many examples.
    pub n: u64,
}

impl Loss {
    /// As the command line has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Mse => "mse",
            Self::Bce => "bce",
        }
    }

    /// Targets as the loss takes them.
    ///
    /// # Errors
    /// In words, what is wrong with them.
    pub fn targets(self, targets: &Tensor) -> Result<Tensor, String> {
        let said = |error: tch::TchError| Problem::from(error).message;
        let kind = targets.f_kind().map_err(said)?;
        if self == Self::CrossEntropy {
            if is_float(kind)
                || !matches!(
                    kind,
                    Kind::Int64 | Kind::Int | Kind::Int16 | Kind::Int8 | Kind::Uint8 | Kind::Bool
                )
            {
                return Err("must be whole numbers, those of classes, for cross-entropy".to_owned());
            }
            return targets.f_to_kind(Kind::Int64).map_err(said);
        }
        let targets =
            targets.f_to_kind(if kind == Kind::Double { Kind::Double } else { Kind::Float }).map_err(said)?;
        if self == Self::Bce {
            let (low, high) = bounds(&targets).map_err(|problem| problem.message)?;
            if low < 0.0 || high > 1.0 {
                return Err(format!("reach from {low} to {high}: bce takes 0 to 1"));
            }
        }
        Ok(targets)
    }

    /// The mean loss of a batch, as a tensor that can be derived.
    ///
    /// # Errors
    /// Outputs and targets that do not fit.
    pub fn of(self, outputs: &Tensor, targets: &Tensor) -> Result<Tensor, Problem> {
        let outputs = wide(outputs)?;
        match self {
            Self::CrossEntropy => {
                let sizes = outputs.size();
                let [_, classes, ..] = *sizes.as_slice() else {
                    return Err(unfit(&outputs, targets, "cross-entropy takes a logit for each class"));
                };
                let (low, high) = bounds(targets)?;
                if low < 0.0 || high >= classes as f64 {
                    let why = format!(
                        "the targets reach from {low} to {high}, and the module has {classes} classes"
                    );
                    return Err(Problem::new(why).help("number them from 0"));
                }
                Ok(outputs
                    .f_cross_entropy_loss::<Tensor>(targets, None, Reduction::Mean, -100, 0.0)
                    .map_err(|_| {
                        unfit(&outputs, targets, "cross-entropy takes a number of a class for each row")
                    })?)
            }
            Self::Mse => Ok(outputs.f_mse_loss(&shaped(&outputs, targets)?, Reduction::Mean)?),
            Self::Bce => {
                let targets = shaped(&outputs, targets)?;
                Ok(outputs.f_binary_cross_entropy_with_logits::<Tensor>(
                    &targets,
                    None,
                    None,
                    Reduction::Mean,
                )?)
            }
        }
    }

    /// What is to be said of a batch's outputs beside the loss: how many of how many targets were met, and for two
    /// classes a score and whether it was the second, for each.
    fn judged(self, outputs: &Tensor, targets: &Tensor) -> Result<Judged, Problem> {
        let outputs = wide(&outputs.f_detach()?)?;
        match self {
            Self::Mse => Ok(Judged::default()),
            Self::CrossEntropy => {
                let met = outputs.f_argmax(1, false)?.f_eq_tensor(targets)?.f_to_kind(Kind::Int64)?;
                let scores = if outputs.size().as_slice()[1..] == [2] {
                    let scores = outputs.f_select(1, 1)?.f_sub(&outputs.f_select(1, 0)?)?;
                    pairs(&scores, &targets.f_to_kind(Kind::Double)?)?
                } else {
                    Vec::new()
                };
                Ok(Judged {
                    met: met.f_sum(Kind::Int64)?.f_int64_value(&[])?.unsigned_abs(),
                    of: targets.numel() as u64,
                    scores,
                })
            }
            Self::Bce => {
                let targets = shaped(&outputs, targets)?;
                let met = outputs.f_gt(0.0)?.f_eq_tensor(&targets.f_gt(0.5)?)?.f_to_kind(Kind::Int64)?;
                Ok(Judged {
                    met: met.f_sum(Kind::Int64)?.f_int64_value(&[])?.unsigned_abs(),
                    of: targets.numel() as u64,
                    scores: pairs(&outputs, &targets)?,
                })
            }
        }
    }
}

#[derive(Default)]
struct Judged {
    met: u64,
    of: u64,
    scores: Vec<(f64, bool)>,
}

/// Figures of several batches, put together.
#[derive(Default)]
pub(crate) struct Sum {
    loss: f64,
    rows: u64,
    met: u64,
    of: u64,
    scores: Vec<(f64, bool)>,
}

impl Sum {
    /// Adds the outputs for some rows.
    pub(crate) fn add(
        &mut self,
        loss: Loss,
        outputs: &Tensor,
        targets: &Tensor,
        rows: i64,
    ) -> Result<(), Problem> {
        let value = loss.of(outputs, targets)?.f_double_value(&[])?;
        let judged = loss.judged(outputs, targets)?;
        self.loss += value * rows as f64;
        self.rows += rows.unsigned_abs();
        self.met += judged.met;
        self.of += judged.of;
        self.scores.extend(judged.scores);
        Ok(())
    }

    pub(crate) fn measured(mut self) -> Measured {
        Measured {
            loss: self.loss / self.rows.max(1) as f64,
            accuracy: (self.of > 0).then(|| self.met as f64 / self.of as f64),
            auc: auc(&mut self.scores),
            n: self.rows,
        }
    }
}

/// The share of pairs of one of each class that a score puts in order, those it can't tell apart counted half (the
/// Mann–Whitney statistic). None unless both classes occur.
fn auc(scores: &mut [(f64, bool)]) -> Option<f64> {
    scores.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut sum, mut lower) = (0.0, 0.0);
    for same in scores.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
        let yes = same.iter().filter(|score| score.1).count() as f64;
        let no = same.len() as f64 - yes;
        sum += yes * (lower + no / 2.0);
        lower += no;
    }
    let yes = scores.len() as f64 - lower;
    (yes > 0.0 && lower > 0.0).then(|| sum / (yes * lower))
}

fn pairs(scores: &Tensor, targets: &Tensor) -> Result<Vec<(f64, bool)>, Problem> {
    let flat = |tensor: &Tensor| -> Result<Vec<f64>, Problem> {
        Ok(Vec::try_from(tensor.f_to_kind(Kind::Double)?.f_reshape([-1])?)?)
    };
    // Of the two zeros one, which are the same score.
    Ok(flat(scores)?
        .into_iter()
        .map(|score| score + 0.0)
        .zip(flat(targets)?.into_iter().map(|target| target > 0.5))
        .collect())
}

/// Losses are added up in no less than single precision.
fn wide(outputs: &Tensor) -> Result<Tensor, Problem> {
    let kind = outputs.f_kind()?;
    if !is_float(kind) {
        return Err(Problem::new(format!("the module's outputs are {kind:?}: a loss needs floats")));
    }
    Ok(if kind == Kind::Double { outputs.shallow_clone() } else { outputs.f_to_kind(Kind::Float)? })
}

/// Targets with the outputs' shape and dtype: a single output may have a dimension of its own, or not.
fn shaped(outputs: &Tensor, targets: &Tensor) -> Result<Tensor, Problem> {
    let plain =
        |tensor: &Tensor| tensor.size().into_iter().skip(1).filter(|size| *size != 1).collect::<Vec<_>>();
    if outputs.numel() != targets.numel() || plain(outputs) != plain(targets) {
        return Err(unfit(outputs, targets, "the loss takes a target for each output"));
    }
    Ok(targets.f_reshape(outputs.size())?.f_to_kind(outputs.f_kind()?)?)
}

fn unfit(outputs: &Tensor, targets: &Tensor, why: &str) -> Problem {
    let (outputs, targets) = (outputs.size(), targets.size());
    Problem::new(format!("outputs of shape {outputs:?} and targets of shape {targets:?} do not fit: {why}"))
}

/// The least and the largest.
fn bounds(tensor: &Tensor) -> Result<(f64, f64), Problem> {
    Ok((tensor.f_min()?.f_double_value(&[])?, tensor.f_max()?.f_double_value(&[])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_under_the_curve_is_the_share_of_pairs_in_order() {
        assert_eq!(auc(&mut [(0.1, false), (0.9, true)]), Some(1.0));
        assert_eq!(auc(&mut [(0.9, false), (0.1, true)]), Some(0.0));
        assert_eq!(auc(&mut [(0.5, false), (0.5, true)]), Some(0.5));
        // Of 4 pairs 3 are in order.
        assert_eq!(auc(&mut [(0.1, false), (0.4, false), (0.35, true), (0.8, true)]), Some(0.75));
        assert_eq!(auc(&mut [(0.1, true)]), None);
        assert_eq!(auc(&mut []), None);
    }

    #[test]
    fn figures_are_those_of_the_rows_however_they_come_in_batches() {
        let outputs = Tensor::from_slice(&[2_f32, 0., 0., 1., 3., 1., 0., 5.]).view([4, 2]);
        let targets = Tensor::from_slice(&[0_i64, 1, 1, 1]);
        let mut once = Sum::default();
        once.add(Loss::CrossEntropy, &outputs, &targets, 4).unwrap();
        let mut twice = Sum::default();
        for (start, length) in [(0, 3), (3, 1)] {
            let (outputs, targets) = (outputs.narrow(0, start, length), targets.narrow(0, start, length));
            twice.add(Loss::CrossEntropy, &outputs, &targets, length).unwrap();
        }
        let (once, twice) = (once.measured(), twice.measured());
        assert!((once.loss - twice.loss).abs() < 1e-6);
        assert_eq!((once.accuracy, once.n), (Some(0.75), 4));
        assert_eq!((once.accuracy, once.auc, once.n), (twice.accuracy, twice.auc, twice.n));
        // Scores −2; 1, −2, 5: one of three pairs can't be told apart.
        assert_eq!(once.auc, Some(2.5 / 3.0));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let outputs = Tensor::from_slice(&[0_f32; 6]).view([3, 2]);
        for (loss, targets, named) in [
            (Loss::CrossEntropy, Tensor::from_slice(&[0_i64, 1, 2]), "2 classes"),
            (Loss::CrossEntropy, Tensor::from_slice(&[0_i64, -1, 1]), "2 classes"),
            (Loss::CrossEntropy, Tensor::from_slice(&[0_i64; 6]).view([3, 2]), "[3, 2]"),
            (Loss::Mse, Tensor::from_slice(&[0_f32; 3]), "[3]"),
            (Loss::Bce, Tensor::from_slice(&[0_f32; 3]), "[3]"),
        ] {
            let problem = loss.of(&outputs, &targets).unwrap_err();
            assert!(problem.message.contains(named), "{named}: {}", problem.message);
        }
        assert!(Loss::CrossEntropy.targets(&Tensor::from_slice(&[0.5_f32])).unwrap_err().contains("whole"));
        assert!(Loss::Bce.targets(&Tensor::from_slice(&[2_f32])).unwrap_err().contains("0 to 1"));
        assert!(Loss::Mse.of(&outputs, &Tensor::from_slice(&[0_f32; 6]).view([3, 2])).is_ok());
        let single = Tensor::from_slice(&[0_f32; 3]).view([3, 1]);
        assert!(Loss::Bce.of(&single, &Tensor::from_slice(&[0_f32, 1., 1.])).is_ok());
    }
}
