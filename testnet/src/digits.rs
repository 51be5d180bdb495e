//! The UCI handwritten digits, and how the demo deals them out.
//!
//! 1,797 images (CC BY 4.0, see `data/ATTRIBUTION.md`). 360 are held out: nobody trains on them. The rest goes to a
//! few contributors, each digit by its own Dirichlet draw, so that everyone has too much of some digits and too
//! little of others: the case for which training together is worth the trouble.

use std::io::Read;

use flate2::read::GzDecoder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

/// Pixels of an image, 8 × 8, row by row.
pub const PIXELS: usize = 64;
/// Digits there are.
pub const CLASSES: usize = 10;
/// Images nobody trains on.
pub const HELD_OUT: usize = 360;
/// Largest value of a pixel.
pub const BRIGHTEST: u8 = 16;

/// The data file, byte for byte as scikit-learn ships it.
const FILE: &[u8] = include_bytes!("../data/digits.csv.gz");

/// One handwritten digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    /// Brightness, 0 to [`BRIGHTEST`], row by row.
    pub pixels: [u8; PIXELS],
    /// The digit it shows, 0 to 9.
    pub label: u8,
}

impl Image {
    /// The pixels scaled to 0..=1, as the network takes them.
    pub fn normalised(&self) -> [f64; PIXELS] {
        self.pixels.map(|pixel| f64::from(pixel) / f64::from(BRIGHTEST))
    }
}

/// Why the digits cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DigitsError {
    /// The file does not unpack.
    #[error("digits.csv.gz does not unpack: {0}; take it again from scikit-learn's package")]
    Unpack(#[from] std::io::Error),
    /// A line is not 64 pixels and a digit.
    #[error("digits.csv.gz, line {line}: {what}; take the file again from scikit-learn's package")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The images cannot be split as asked.
    #[error("{images} images cannot be split over {contributors} contributors beside {HELD_OUT} held out")]
    Split {
        /// Images there are.
        images: usize,
        /// Contributors asked for.
        contributors: usize,
    },
    /// The concentration is not a number a Dirichlet distribution takes.
    #[error("a Dirichlet concentration must be above 0, not {0}")]
    Concentration(f64),
}

/// All images, in the order of the file.
///
/// # Errors
/// When the embedded file is damaged.
pub fn all() -> Result<Vec<Image>, DigitsError> {
    let mut text = String::new();
    GzDecoder::new(FILE).read_to_string(&mut text)?;
    text.lines()
        .enumerate()
        .map(|(index, line)| parse(line).map_err(|what| DigitsError::Line { line: index + 1, what }))
        .collect()
}

fn parse(line: &str) -> Result<Image, String> {
    let values = line
        .split(',')
        .map(|value| value.trim().parse::<u8>().map_err(|error| format!("{value:?}: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    let Some((&label, pixels)) = values.split_last() else { return Err("it is empty".into()) };
    let pixels: [u8; PIXELS] =
        pixels.try_into().map_err(|_| format!("{} pixels, expected {PIXELS}", pixels.len()))?;
    if let Some(pixel) = pixels.iter().find(|pixel| **pixel > BRIGHTEST) {
        return Err(format!("a pixel of {pixel}, the most is {BRIGHTEST}"));
    }
    if usize::from(label) >= CLASSES {
        return Err(format!("{label} is not a digit"));
    }
    Ok(Image { pixels, label })
}

/// Who holds which images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// [`HELD_OUT`] images nobody trains on.
    pub held_out: Vec<Image>,
    /// Each contributor's images, shuffled.
    pub contributors: Vec<Vec<Image>>,
}

impl Split {
    /// All images that anybody trains on.
    pub fn pooled(&self) -> Vec<Image> {
        self.contributors.concat()
    }
}

/// Deals `images` out: [`HELD_OUT`] to nobody, the rest over `contributors`. Each digit's images are cut by shares
/// drawn from Dirichlet(`concentration`); below 1 the shares are uneven. The same seed gives the same split.
///
/// # Errors
/// With too few images or no contributor, or a concentration that is not above 0.
pub fn split(
    mut images: Vec<Image>,
    contributors: usize,
    concentration: f64,
    seed: u64,
) -> Result<Split, DigitsError> {
    if contributors == 0 || images.len() < HELD_OUT + contributors {
        return Err(DigitsError::Split { images: images.len(), contributors });
    }
    let gamma = Gamma::new(concentration, 1.0).map_err(|_| DigitsError::Concentration(concentration))?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    images.shuffle(&mut random);
    let rest = images.split_off(HELD_OUT);

    let mut dealt = vec![Vec::new(); contributors];
    for digit in 0..CLASSES {
        let of_digit: Vec<Image> =
            rest.iter().filter(|image| usize::from(image.label) == digit).copied().collect();
        // Gamma draws divided by their sum are a Dirichlet draw.
        let draws: Vec<f64> = dealt.iter().map(|_| gamma.sample(&mut random)).collect();
        let total: f64 = draws.iter().sum();
        let (mut start, mut share) = (0, 0.0);
        for (index, (hand, draw)) in dealt.iter_mut().zip(&draws).enumerate() {
            share += draw / total;
            let end = if index + 1 == contributors { of_digit.len() } else { cut(share, of_digit.len()) };
            hand.extend(of_digit.iter().take(end).skip(start));
            start = end.max(start);
        }
    }
    for hand in &mut dealt {
        hand.shuffle(&mut random);
    }
    Ok(Split { held_out: images, contributors: dealt })
}

/// Where a share of `count` things ends.
#[allow(clippy::cast_sign_loss, reason = "a share is between 0 and 1")]
fn cut(share: f64, count: usize) -> usize {
    ((share * count as f64).round() as usize).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_1797_images_are_read() {
        let images = all().unwrap();
        assert_eq!(images.len(), 1797);
        for digit in 0..10 {
            let count = images.iter().filter(|image| image.label == digit).count();
            assert!((170..190).contains(&count), "{count} of {digit}");
        }
        assert_eq!(images[0].label, 0);
        assert_eq!(images[0].pixels[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
    }

    #[test]
    fn every_image_is_dealt_once_and_the_seed_decides_to_whom() {
        let images = all().unwrap();
        let dealt = split(images.clone(), 4, 0.5, 7).unwrap();
        assert_eq!(dealt.held_out.len(), HELD_OUT);
        let mut together = [dealt.held_out.clone(), dealt.pooled()].concat();
        let mut expected = images.clone();
        together.sort_unstable();
        expected.sort_unstable();
        assert_eq!(together, expected);
        assert_eq!(split(images.clone(), 4, 0.5, 7).unwrap(), dealt);
        assert_ne!(split(images, 4, 0.5, 8).unwrap(), dealt);
    }

    #[test]
    fn damaged_lines_are_refused_with_their_fault() {
        let good = vec!["0"; 65].join(",");
        assert!(parse(&good).is_ok());
        assert!(parse("1,2,3").unwrap_err().contains("2 pixels"));
        assert!(parse(&format!("{}0,10", "0,".repeat(63))).unwrap_err().contains("not a digit"));
        assert!(parse(&format!("{}17,1", "0,".repeat(63))).unwrap_err().contains("17"));
        assert!(parse("").is_err());
    }

    #[test]
    fn impossible_splits_are_refused() {
        let images = all().unwrap();
        assert!(split(images.clone(), 0, 0.5, 1).is_err());
        assert!(split(images[..360].to_vec(), 4, 0.5, 1).is_err());
        assert!(split(images, 4, 0.0, 1).is_err());
    }
}
