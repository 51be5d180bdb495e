//! The one list of rules: their names, their settings, and what reads them.

use super::bulyan::Bulyan;
use super::centre::{ITERATIONS, iterations};
use super::centred::CentredClipping;
use super::dishonest::Dishonest;
use super::fedasync::FedAsync;
use super::fedavg::FedAvg;
use super::fedbuff::FedBuff;
use super::fednova::FedNova;
use super::geometric::GeometricMedian;
use super::krum::Krum;
use super::median::Median;
use super::multikrum::MultiKrum;
use super::norm::NormClipping;
use super::radius::Radius;
use super::rule::Rule;
use super::server::Kind;
use super::setting::{CAP, CLIP, ETA, STALENESS, Setting, Values, decimal};
use super::trimmed::TrimmedMean;
use super::{LARGEST_ETA, PolicyError};
use std::sync::Arc;

/// A rule, as the list has it.
#[derive(Debug)]
pub struct Entry {
    /// Its name in the literature, lower-case: what a policy says.
    pub name: &'static str,
    /// Its name as the literature writes it.
    pub title: &'static str,
    /// What it is for, in a few words.
    pub summary: &'static str,
    /// Settings of the rule alone, beside those that all have.
    pub own: &'static [Setting],
    /// Whether it has the setting `cap`.
    pub(crate) capped: bool,
    /// Whether `eta` is a share, at most 1.
    pub(crate) mixes: bool,
    /// The server's optimiser, where the name says it.
    pub(crate) server: Option<Kind>,
    /// Reads the rule's own settings.
    pub(crate) read: fn(&Values) -> Result<Arc<dyn Rule>, PolicyError>,
}

/// What most entries have in common.
const PLAIN: Entry = Entry {
    name: "",
    title: "",
    summary: "",
    own: &[],
    capped: false,
    mixes: false,
    server: None,
    read: |_| Ok(Arc::new(FedAvg)),
};

/// The rules, in the order they are offered.
pub const RULES: &[Entry] = &[
    // Everybody's examples count: `cap` is listed for FedBuff because the first policies had it; it changes nothing.
    Entry {
        name: "fedbuff",
        title: "FedBuff",
        summary: "everybody counts the same, late updates less; for people at different speeds",
        capped: true,
        read: |_| Ok(Arc::new(FedBuff)),
        ..PLAIN
    },
    Entry { name: "fedavg", title: "FedAvg", summary: "the mean weighed by examples", capped: true, ..PLAIN },
    Entry {
        name: "fedasync",
        title: "FedAsync",
        summary: "the model is mixed with each model that arrives; with every = 1",
        mixes: true,
        read: |_| Ok(Arc::new(FedAsync)),
        ..PLAIN
    },
    Entry {
        name: "fedavgm",
        title: "FedAvgM",
        summary: "FedAvg with momentum at the server",
        capped: true,
        server: Some(Kind::Momentum),
        ..PLAIN
    },
    Entry {
        name: "fedadagrad",
        title: "FedAdagrad",
        summary: "FedAvg with Adagrad at the server",
        capped: true,
        server: Some(Kind::Adagrad),
        ..PLAIN
    },
    Entry {
        name: "fedadam",
        title: "FedAdam",
        summary: "FedAvg with Adam at the server",
        capped: true,
        server: Some(Kind::Adam),
        ..PLAIN
    },
    Entry {
        name: "fedyogi",
        title: "FedYogi",
        summary: "FedAvg with Yogi at the server",
        capped: true,
        server: Some(Kind::Yogi),
        ..PLAIN
    },
    Entry {
        name: "fednova",
        title: "FedNova",
        summary: "FedAvg for people who take different numbers of local steps",
        capped: true,
        read: |_| Ok(Arc::new(FedNova)),
        ..PLAIN
    },
    Entry {
        name: "median",
        title: "Median",
        summary: "robust: the median at every weight",
        read: |_| Ok(Arc::new(Median)),
        ..PLAIN
    },
    Entry {
        name: "trimmed-mean",
        title: "Trimmed mean",
        summary: "robust: the mean without the extremes at every weight",
        own: &[Dishonest::SETTING],
        read: |values| Ok(Arc::new(TrimmedMean { dishonest: dishonest(values)? })),
        ..PLAIN
    },
    Entry {
        name: "krum",
        title: "Krum",
        summary: "robust: one person's change, from the thick of them",
        own: &[Dishonest::SETTING],
        read: |values| Ok(Arc::new(Krum { dishonest: dishonest(values)? })),
        ..PLAIN
    },
    Entry {
        name: "multi-krum",
        title: "Multi-Krum",
        summary: "robust: the mean of those in the thick of them",
        own: &[Dishonest::SETTING, MultiKrum::KEEP],
        read: |values| {
            let keep = values.read(&MultiKrum::KEEP, MultiKrum::keep)?;
            Ok(Arc::new(MultiKrum { dishonest: dishonest(values)?, keep }))
        },
        ..PLAIN
    },
    Entry {
        name: "bulyan",
        title: "Bulyan",
        summary: "robust: Krum's choice, then the mean around the median at every weight",
        own: &[Dishonest::SETTING],
        read: |values| Ok(Arc::new(Bulyan { dishonest: dishonest(values)? })),
        ..PLAIN
    },
    Entry {
        name: "geometric-median",
        title: "Geometric median",
        summary: "robust: the point nearest to all persons together",
        own: &[ITERATIONS],
        read: |values| Ok(Arc::new(GeometricMedian { iterations: values.read(&ITERATIONS, iterations)? })),
        ..PLAIN
    },
    Entry {
        name: "centred-clipping",
        title: "Centred clipping",
        summary: "robust: nobody pulls further than a radius around the centre",
        own: &[Radius::SETTING, ITERATIONS],
        read: |values| {
            let iterations = values.read(&ITERATIONS, iterations)?;
            Ok(Arc::new(CentredClipping {
                radius: values.read(&Radius::SETTING, Radius::parse)?,
                iterations,
            }))
        },
        ..PLAIN
    },
    Entry {
        name: "norm-clipping",
        title: "Norm clipping",
        summary: "robust against a few: nobody pulls further than a bound",
        own: &[Radius::SETTING],
        read: |values| Ok(Arc::new(NormClipping { radius: values.read(&Radius::SETTING, Radius::parse)? })),
        ..PLAIN
    },
];

fn dishonest(values: &Values) -> Result<Dishonest, PolicyError> {
    values.read(&Dishonest::SETTING, Dishonest::parse)
}

/// Names that people know and that are none of the list's, with what to do instead.
const ELSEWHERE: [(&str, &str); 9] = [
    (
        "fedprox",
        "it changes how each site trains, not how updates are combined: add μ/2 · ‖w − w_base‖² to the loss where you \
         train, and aggregate with fedavg or fedbuff",
    ),
    ("fedsgd", "it is fedavg with one local step"),
    ("fedopt", "it is one of fedadagrad, fedadam, fedyogi and fedavgm, or any rule with the setting server"),
    ("fedmedian", "it is called median here"),
    ("fedtrimmedavg", "it is called trimmed-mean here"),
    ("multikrum", "it is called multi-krum here"),
    ("rfa", "it is called geometric-median here"),
    ("centered-clipping", "it is called centred-clipping here"),
    ("clipping", "it is called norm-clipping here"),
];

impl Entry {
    /// The rule of this name.
    ///
    /// # Errors
    /// No such rule, with what to do instead where that is known.
    pub fn find(name: &str) -> Result<&'static Self, PolicyError> {
        let elsewhere = || ELSEWHERE.iter().find(|(other, _)| *other == name).map(|(_, instead)| *instead);
        RULES.iter().find(|entry| entry.name == name).ok_or_else(|| match elsewhere() {
            Some(instead) => PolicyError::Elsewhere { rule: name.to_owned(), instead },
            None => PolicyError::Rule { rule: name.to_owned() },
        })
    }

    /// η: its default and what it may be depend on the rule and on the server's optimiser.
    pub(crate) fn eta(&self, server: Kind) -> Setting {
        let rule = if self.mixes { FedAsync::ETA } else { ETA };
        server.eta().unwrap_or(rule)
    }

    /// Reads η.
    pub(crate) fn read_eta(&self, server: Kind, values: &Values) -> Result<f64, PolicyError> {
        let mixes = self.mixes && server.eta().is_none();
        values.read(&self.eta(server), |text| {
            let eta = decimal(text).filter(|eta| *eta > 0.0 && *eta <= LARGEST_ETA)?;
            (!mixes || FedAsync::is_share(text)).then_some(eta)
        })
    }

    /// All settings that the rule has with this optimiser.
    pub(crate) fn settings(&self, server: Kind) -> Vec<Setting> {
        let mut settings = vec![self.eta(server), STALENESS];
        settings.extend(self.capped.then_some(CAP));
        settings.push(CLIP);
        settings.extend(self.own);
        settings.extend(self.server.is_none().then_some(Kind::SETTING));
        settings.extend(server.settings());
        settings
    }
}
