//! Tests of the node's promises, as one program.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod bundles;
#[cfg(test)]
mod clone;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod drafts;
#[cfg(test)]
mod external;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod folders;
#[cfg(test)]
mod home;
#[cfg(test)]
mod import;
#[cfg(test)]
mod keeping;
#[cfg(test)]
mod local;
#[cfg(test)]
mod net;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod privacy;
#[cfg(test)]
mod private;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod store;
#[cfg(test)]
mod together;
#[cfg(test)]
mod trust;
