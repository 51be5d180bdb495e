//! The rules on real training: robust ones keep the model where three of ten lie, and nobody has to wait for the slow.

use flair_aggregation::privacy::account;
use flair_testnet::study::attack::Attack;
use flair_testnet::study::{dishonest, pace, private};

#[test]
fn robust_rules_keep_the_model_from_those_who_lie_and_a_mean_does_not() {
    let rows = dishonest::run().unwrap();
    let mut robust = 0;
    for row in &rows {
        let honest = row.accuracy[0];
        assert!(honest > 0.9, "{row:?}");
        if row.withstands.is_some_and(|most| most >= dishonest::DISHONEST) {
            robust += 1;
            for (attack, accuracy) in Attack::ALL.iter().zip(row.accuracy) {
                assert!(accuracy >= honest - 0.05, "{} under {}: {row:?}", row.rule, attack.name());
            }
        }
    }
    assert!(robust >= 5, "{rows:?}");
    let mean = rows.iter().find(|row| row.rule == "fedavg").unwrap();
    let under = |attack: Attack| mean.accuracy[Attack::ALL.iter().position(|one| *one == attack).unwrap()];
    assert!(under(Attack::SignFlip) < 0.5 && under(Attack::Scaling) < 0.5, "{mean:?}");
    assert!(under(Attack::LabelFlip) < mean.accuracy[0] - 0.1, "{mean:?}");
}

#[test]
fn asynchronous_training_is_as_good_in_less_time_where_some_are_slow() {
    let rows = pace::run().unwrap();
    let target = rows[0].accuracy();
    assert!(target > 0.95, "{rows:?}");
    let waited = rows[0].reached(target).unwrap();
    for policy in ["fedbuff of 3", "fedbuff of 5", "fedasync"] {
        let row = rows.iter().find(|row| row.policy == policy).unwrap();
        assert!(row.reached(target).is_some_and(|time| time < waited / 2), "{policy}: {row:?}");
    }
}

#[test]
fn noise_costs_accuracy_and_many_sites_bear_more_of_it() {
    let study = private::run().unwrap();
    let row = |epsilon: Option<f64>| study.rows.iter().find(|row| row.epsilon == epsilon).unwrap();
    let (clean, strong) = (row(None), row(Some(1.0)));
    assert!(clean.accuracy.iter().all(|accuracy| *accuracy > study.public), "{study:?}");
    assert!(strong.accuracy.iter().all(|accuracy| *accuracy < study.public - 0.3), "{study:?}");
    let many = row(Some(30.0)).accuracy;
    assert!(many[2] > many[1] && many[1] > many[0] + 0.1, "{study:?}");
    // All rounds together cost what the table says, by the accountant that commits are claimed with.
    for row in study.rows.iter().filter(|row| row.epsilon.is_some()) {
        let releases = std::iter::repeat_n(row.noise.recip(), private::ROUNDS as usize);
        let cost = account::epsilon(account::compose(releases), private::DELTA);
        assert!((cost / row.epsilon.unwrap() - 1.0).abs() < 1e-6, "{cost} {row:?}");
    }
}
