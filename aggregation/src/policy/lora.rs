//! LoRA pairs: A stays, B is aggregated.
//!
//! An adapter adds s · BA to a weight. Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024
//! (FFA-LoRA), freeze A where it was first drawn: then
//!
//! mean(Bᵢ) A = mean(Bᵢ A),
//!
//! which no means of both factors give, and noise that is added to B is not multiplied by noise in A. So the role `lora-a`
//! must be equal in all inputs, and `lora-b` goes through the policy as weights do: under any rule, and with any optimiser.
//! Nothing else is on offer, and the setting `lora` is there to say so to those who ask for it.

use super::PolicyError;
use std::collections::BTreeMap;

/// The settings without what they say of LoRA pairs.
///
/// # Errors
/// Another value than `ffa`.
pub(super) fn only_frozen(
    settings: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, PolicyError> {
    let mut settings = settings.clone();
    let why = match settings.remove("lora").as_deref() {
        None | Some("ffa") => return Ok(settings),
        Some("average") => {
            "averaging A and B apart is not averaging BA. Without it A stays as in the first commit and B is aggregated \
             (lora=ffa), so that the mean of B times A is the mean of the products"
        }
        Some(_) => "the value that there is is ffa: A stays as in the first commit and B is aggregated",
    };
    Err(PolicyError::Lora { why })
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;

    #[test]
    fn what_is_not_the_mean_of_products_is_refused_with_the_reason() {
        let with = |value: &str| {
            let settings = BTreeMap::from([("lora".to_owned(), value.to_owned())]);
            Policy::parse("fedavg", &settings).map(|policy| policy.settings().clone())
        };
        let plain = Policy::parse("fedavg", &BTreeMap::new()).unwrap().settings().clone();
        assert_eq!(with("ffa").unwrap(), plain, "it is what happens anyway, so it is not kept");
        let words = with("average").unwrap_err().to_string();
        assert!(words.contains("not averaging BA") && words.contains("B is aggregated"), "{words}");
        assert!(with("stack").unwrap_err().to_string().contains("ffa"));
    }
}
