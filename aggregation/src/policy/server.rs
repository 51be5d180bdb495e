//! The server's optimiser: what becomes of the direction that a rule gives.
//!
//! It comes last, after clipping and the rule, and goes with any rule: `fedadam` is short for `fedavg` with
//! `server=adam`. What it remembers ([`Carried::Momentum`], [`Carried::Variance`]) is part of what an aggregate carries
//! forward. Where a policy changes to another optimiser along a path, or to none, the old one's memory is dropped and
//! the new one begins with nothing; a change of its settings, or of the rule before it, drops nothing.

use super::PolicyError;
use super::fedadagrad::Adagrad;
use super::fedadam::{self, Adam, BETA1, BETA2, TAU};
use super::fedavgm::{Momentum, decay};
use super::fedyogi::Yogi;
use super::setting::{ETA, Setting, Values};
use crate::kernel::server::{Moments, Optimiser, advance};
use crate::run::Carried;

/// Which optimiser: what the setting `server` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Momentum,
    Adagrad,
    Adam,
    Yogi,
}

impl Kind {
    /// The setting of rules whose name does not already say it.
    pub(crate) const SETTING: Setting = Setting {
        name: "server",
        default: "none",
        expected: "'none', 'momentum', 'adagrad', 'adam' or 'yogi'",
        meaning: "what the server's optimiser makes of the rule's direction",
    };

    /// Reads the setting's value.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Plain, Self::Momentum, Self::Adagrad, Self::Adam, Self::Yogi]
            .into_iter()
            .find(|kind| kind.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "none",
            Self::Momentum => "momentum",
            Self::Adagrad => "adagrad",
            Self::Adam => "adam",
            Self::Yogi => "yogi",
        }
    }

    /// The optimiser's own settings.
    pub(crate) fn settings(self) -> &'static [Setting] {
        match self {
            Self::Plain => &[],
            Self::Momentum => &[Momentum::MOMENTUM],
            Self::Adagrad => &[TAU],
            Self::Adam | Self::Yogi => &[BETA1, BETA2, TAU],
        }
    }

    /// η where the optimiser has a usual one of its own: its steps do not grow with the direction.
    pub(crate) fn eta(self) -> Option<Setting> {
        let default = match self {
            Self::Plain | Self::Momentum => return None,
            Self::Adagrad => "0.1",
            Self::Adam | Self::Yogi => "0.01",
        };
        Some(Setting { default, ..ETA })
    }

    /// The optimiser with its settings.
    ///
    /// # Errors
    /// A value out of its range.
    pub(crate) fn read(self, values: &Values) -> Result<Server, PolicyError> {
        let tau = || values.read(&TAU, fedadam::tau);
        let adam = || {
            Ok(Adam { beta1: values.read(&BETA1, decay)?, beta2: values.read(&BETA2, decay)?, tau: tau()? })
        };
        Ok(match self {
            Self::Plain => Server::Plain,
            Self::Momentum => {
                Server::Momentum(Momentum { momentum: values.read(&Momentum::MOMENTUM, decay)? })
            }
            Self::Adagrad => Server::Adagrad(Adagrad { tau: tau()? }),
            Self::Adam => Server::Adam(adam()?),
            Self::Yogi => Server::Yogi(Yogi(adam()?)),
        })
    }
}

/// An optimiser with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Server {
    /// The direction is the step.
    Plain,
    Momentum(Momentum),
    Adagrad(Adagrad),
    Adam(Adam),
    Yogi(Yogi),
}

impl Server {
    /// Its name, as the setting `server` has it; `None` for none.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Momentum(_) => Some(Kind::Momentum.name()),
            Self::Adagrad(_) => Some(Kind::Adagrad.name()),
            Self::Adam(_) => Some(Kind::Adam.name()),
            Self::Yogi(_) => Some(Kind::Yogi.name()),
        }
    }

    /// In words.
    pub(crate) fn explain(self) -> Option<String> {
        match self {
            Self::Plain => None,
            Self::Momentum(optimiser) => Some(optimiser.explain()),
            Self::Adagrad(optimiser) => Some(optimiser.explain()),
            Self::Adam(optimiser) => Some(optimiser.explain()),
            Self::Yogi(optimiser) => Some(optimiser.explain()),
        }
    }

    /// What it remembers of every weight.
    pub(crate) fn carries(self) -> &'static [Carried] {
        fn of<O: Optimiser>(_: &O) -> &'static [Carried] {
            match (O::MOMENTUM, O::VARIANCE) {
                (true, true) => &[Carried::Momentum, Carried::Variance],
                (true, false) => &[Carried::Momentum],
                (false, true) => &[Carried::Variance],
                (false, false) => &[],
            }
        }
        match self {
            Self::Plain => &[],
            Self::Momentum(optimiser) => of(&optimiser),
            Self::Adagrad(optimiser) => of(&optimiser),
            Self::Adam(optimiser) => of(&optimiser),
            Self::Yogi(optimiser) => of(&optimiser),
        }
    }

    /// Replaces sums by the steps that their directions, sum over divisor, lead to; appends the new moments. Says
    /// what the steps are to be divided by.
    pub(crate) fn advance(
        self,
        sums: &mut [f64],
        divisor: f64,
        old: Moments<'_>,
        momentum: &mut Vec<u8>,
        variance: &mut Vec<u8>,
    ) -> f64 {
        match self {
            Self::Plain => return divisor,
            Self::Momentum(optimiser) => advance(&optimiser, sums, divisor, old, momentum, variance),
            Self::Adagrad(optimiser) => advance(&optimiser, sums, divisor, old, momentum, variance),
            Self::Adam(optimiser) => advance(&optimiser, sums, divisor, old, momentum, variance),
            Self::Yogi(optimiser) => advance(&optimiser, sums, divisor, old, momentum, variance),
        }
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step and moments of one weight after these directions.
    fn after(server: Server, directions: &[f64]) -> (f64, f64, f64) {
        let (mut momentum, mut variance, mut step) = (Vec::new(), Vec::new(), [0.0]);
        for direction in directions {
            let (old_momentum, old_variance) = (momentum, variance);
            (momentum, variance) = (Vec::new(), Vec::new());
            step = [*direction];
            let old = Moments { momentum: &old_momentum, variance: &old_variance };
            server.advance(&mut step, 1.0, old, &mut momentum, &mut variance);
        }
        let read = |bytes: Vec<u8>| {
            bytes.as_chunks::<4>().0.first().map_or(0.0, |bytes| f64::from(f32::from_le_bytes(*bytes)))
        };
        (step[0], read(momentum), read(variance))
    }

    fn close(got: f64, expected: f64) -> bool {
        (got - expected).abs() <= expected.abs() * 1e-6
    }

    #[test]
    fn momentum_adds_up() {
        let (step, momentum, _) = after(Server::Momentum(Momentum { momentum: 0.5 }), &[1.0, 1.0, 1.0]);
        assert_eq!([step, momentum].map(f64::to_bits), [1.75f64; 2].map(f64::to_bits));
    }

    #[test]
    fn adam_yogi_and_adagrad_are_what_the_paper_says() {
        let adam = Adam { beta1: 0.9, beta2: 0.99, tau: 0.1 };
        let (m, v) = (0.1 * 2.0, 0.99 * 0.01 + 0.01 * 4.0);
        let (m, v) = (0.9 * m - 0.1 * 3.0, 0.99 * v + 0.01 * 9.0);
        let (step, momentum, variance) = after(Server::Adam(adam), &[2.0, -3.0]);
        assert!(close(step, m / (f64::sqrt(v) + 0.1)) && close(momentum, m) && close(variance, v), "{step}");

        // First v = 0.01 is below d² = 4, then above d² = 10⁻⁴.
        let v = 0.01 + 0.01 * 4.0 - 0.01 * 1e-4;
        let (step, momentum, variance) = after(Server::Yogi(Yogi(adam)), &[2.0, 0.01]);
        let m = 0.9 * 0.1 * 2.0 + 0.1 * 0.01;
        assert!(close(step, m / (f64::sqrt(v) + 0.1)) && close(momentum, m) && close(variance, v), "{step}");

        let v = 0.01 + 4.0 + 9.0;
        let (step, _, variance) = after(Server::Adagrad(Adagrad { tau: 0.1 }), &[2.0, -3.0]);
        assert!(close(step, -3.0 / (f64::sqrt(v) + 0.1)) && close(variance, v), "{step}");
    }

    #[test]
    fn nothing_moves_by_itself() {
        let adam = Adam { beta1: 0.9, beta2: 0.99, tau: 0.1 };
        let all = [
            Server::Momentum(Momentum { momentum: 0.9 }),
            Server::Adagrad(Adagrad { tau: 0.1 }),
            Server::Adam(adam),
            Server::Yogi(Yogi(adam)),
        ];
        for server in all {
            assert_eq!(after(server, &[0.0, 0.0]).0.to_bits(), 0.0f64.to_bits(), "{server:?}");
            assert!(Kind::parse(server.name().unwrap()).is_some());
        }
        assert_eq!(Kind::parse("sgd"), None);
    }
}
