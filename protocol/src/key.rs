//! Keys and signatures: one ed25519 key per device.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The multicodec prefix of an ed25519 public key in `did:key`.
const ED25519_PREFIX: [u8; 2] = [0xed, 0x01];
const DID: &str = "did:key:z";

/// Why a key or a signature was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// The text is not a `did:key` of an ed25519 key.
    #[error("`{0}` is not a key: expected `did:key:z6Mk…`")]
    Text(String),
    /// The bytes are not a point of the curve, or one of small order.
    #[error("these 32 bytes are not a usable ed25519 key")]
    Point,
    /// The signature does not belong to this key and this message.
    #[error("the signature by {0} does not hold")]
    Signature(PublicKey),
}

/// The public half of a device's key. A *person* is named by the first key they used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A person is named by their first key.
pub type PersonId = PublicKey;

impl PublicKey {
    /// Takes the 32 bytes as they are; whether they are a usable key shows when a signature is verified.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The last eight characters of the `did:key` form, for people.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len().saturating_sub(8)..].to_owned()
    }

    /// Verifies strictly: malleable signatures and small-order keys are refused.
    ///
    /// # Errors
    /// [`KeyError::Point`] for an unusable key, [`KeyError::Signature`] for a signature that does not hold.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| KeyError::Point)?;
        if key.is_weak() {
            return Err(KeyError::Point);
        }
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0))
            .map_err(|_| KeyError::Signature(*self))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&ED25519_PREFIX);
        bytes[2..].copy_from_slice(&self.0);
        write!(f, "{DID}{}", bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let refuse = || KeyError::Text(text.chars().take(80).collect());
        let rest = text.strip_prefix(DID).ok_or_else(refuse)?;
        let mut bytes = [0; 34];
        let length = bs58::decode(rest).onto(&mut bytes).map_err(|_| refuse())?;
        if length != 34 || bytes[..2] != ED25519_PREFIX {
            return Err(refuse());
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[2..]);
        Ok(Self(key))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            serde_bytes::ByteArray::<32>::deserialize(deserializer).map(|bytes| Self(bytes.into_array()))
        }
    }
}

/// An ed25519 signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Takes the 64 bytes as they are.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteArray::<64>::deserialize(deserializer).map(|bytes| Self(bytes.into_array()))
    }
}

/// The secret half. It signs, and is never shown: its `Debug` names the public half.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From the 32 secret bytes, which the caller drew from the system's randomness.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    /// The 32 secret bytes, for the key file and for the network stacks that share this key.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`; callers put a domain in front of it.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn did_key_round_trips_and_names_ed25519() {
        let key = SecretKey::from_bytes(&[7; 32]).public();
        let text = key.to_string();
        assert!(text.starts_with("did:key:z6Mk"), "{text}");
        assert_eq!(text.parse::<PublicKey>().unwrap(), key);
        for bad in ["", "did:key:z", "did:key:z6Mk", &text[..text.len() - 1], &format!("{text}1")] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_small_order_key_verifies_nothing() {
        // The identity point: the pair (identity, R = identity, s = 0) passes lax verification of any message.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let verdict = PublicKey::from_bytes(identity).verify(b"any", &Signature::from_bytes(signature));
        assert_eq!(verdict, Err(KeyError::Point));
    }

    #[test]
    fn a_malleable_signature_is_refused() {
        let secret = SecretKey::from_bytes(&[9; 32]);
        let good = secret.sign(b"message");
        assert!(secret.public().verify(b"message", &good).is_ok());
        // s + L: the group order added to the scalar gives a second signature that lax checks accept.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut bytes = *good.as_bytes();
        let mut carry = 0u16;
        for (byte, add) in bytes[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
        assert!(secret.public().verify(b"message", &Signature::from_bytes(bytes)).is_err());
    }
}
