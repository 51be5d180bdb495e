//! What an aggregate promises, tried on whole runs.

#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "tests may fail loudly, and here results are compared to the last bit"
)]

mod main {
    mod case;
    mod dishonest;
    mod exact;
    mod faults;
    mod golden;
    mod merging;
    mod oracle;
    mod papers;
    mod people;
    mod remembered;
    mod roles;
    mod same;
    mod second;
}
