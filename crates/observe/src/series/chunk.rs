//! Samples of one series, compressed: of a time what it differs from the step before, of a value what it differs from the
//! one before. A counter that is looked at each ten seconds takes two or three bytes a sample, one that stands still one.

use super::Sample;

/// How a value follows from the one before: the lowest two bits of a sample's first number.
const SAME: u64 = 0;
/// Both are whole, and their difference follows.
const WHOLE: u64 = 1;
/// The bits in which they differ follow, without trailing bytes of zeros.
const BITS: u64 = 2;

/// Times that can be kept, in milliseconds since 1970: to the year 37,000 or so.
pub(super) const TIMES: std::ops::Range<i64> = 0..1 << 50;

/// Samples in order of time. Only the end can be added to.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    count: u32,
    first: i64,
    step: i64,
    last: Option<Sample>,
}

impl Chunk {
    /// Adds a sample. Its time is in [`TIMES`] and after that of the one before.
    pub(super) fn push(&mut self, sample: Sample) {
        match self.last {
            None => {
                self.first = sample.at;
                varint(&mut self.bytes, zigzag(sample.at));
                self.bytes.extend(sample.value.to_bits().to_le_bytes());
            }
            Some(last) => {
                let step = sample.at - last.at;
                let change = zigzag(step - self.step) << 2;
                self.step = step;
                match (whole(last.value), whole(sample.value)) {
                    _ if last.value.to_bits() == sample.value.to_bits() => varint(&mut self.bytes, change | SAME),
                    (Some(before), Some(now)) => {
                        varint(&mut self.bytes, change | WHOLE);
                        varint(&mut self.bytes, zigzag(now - before));
                    }
                    _ => {
                        varint(&mut self.bytes, change | BITS);
                        let bits = (last.value.to_bits() ^ sample.value.to_bits()).to_be_bytes();
                        let length = bits.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                        // At most 8.
                        self.bytes.push(u8::try_from(length).unwrap_or(8));
                        self.bytes.extend(&bits[..length]);
                    }
                }
            }
        }
        self.last = Some(sample);
        self.count += 1;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn first(&self) -> i64 {
        self.first
    }

    pub(super) fn last(&self) -> Option<Sample> {
        self.last
    }
}

/// Adds the samples in these bytes to `samples`. None where they are no chunk.
pub(super) fn decode(mut bytes: &[u8], samples: &mut Vec<Sample>) -> Option<()> {
    if bytes.is_empty() {
        return Some(());
    }
    let mut at = unzigzag(read_varint(&mut bytes)?);
    let (value, rest) = bytes.split_first_chunk::<8>()?;
    let mut value = f64::from_bits(u64::from_le_bytes(*value));
    bytes = rest;
    samples.push(Sample { at, value });
    let mut step: i64 = 0;
    while !bytes.is_empty() {
        let head = read_varint(&mut bytes)?;
        step = step.checked_add(unzigzag(head >> 2))?;
        at = at.checked_add(step)?;
        match head & 3 {
            SAME => {}
            WHOLE => {
                #[allow(clippy::cast_precision_loss, reason = "only values that a float holds exactly are written so")]
                let next = whole(value)?.checked_add(unzigzag(read_varint(&mut bytes)?))? as f64;
                value = next;
            }
            BITS => {
                let (length, rest) = bytes.split_first()?;
                let (bits, rest) = rest.split_at_checked(usize::from(*length))?;
                let mut all = [0; 8];
                all.get_mut(..bits.len())?.copy_from_slice(bits);
                value = f64::from_bits(value.to_bits() ^ u64::from_be_bytes(all));
                bytes = rest;
            }
            _ => return None,
        }
        samples.push(Sample { at, value });
    }
    Some(())
}

/// The whole number that a value is, if both have the same bits.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "checked by the way back")]
fn whole(value: f64) -> Option<i64> {
    const MOST: f64 = (1_i64 << 53) as f64;
    let number = value as i64;
    (value.abs() <= MOST && (number as f64).to_bits() == value.to_bits()).then_some(number)
}

#[allow(clippy::cast_sign_loss, reason = "the bits are what is meant")]
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[allow(clippy::cast_possible_wrap, reason = "the bits are what is meant")]
fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test that fails says where by panicking")]
    use super::*;
    use crate::series::STALE;

    fn check(samples: &[Sample]) -> usize {
        let mut chunk = Chunk::default();
        samples.iter().for_each(|sample| chunk.push(*sample));
        let mut read = Vec::new();
        decode(chunk.bytes(), &mut read).unwrap();
        let bits = |samples: &[Sample]| samples.iter().map(|sample| (sample.at, sample.value.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(samples));
        assert_eq!(chunk.count() as usize, samples.len());
        chunk.bytes().len()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let values = [0.0, -0.0, 1.0, f64::NAN, STALE, f64::INFINITY, 9_007_199_254_740_992.0, -9_007_199_254_740_992.0, 1e300, 0.1, -3.0];
        let all = values.iter().enumerate().map(|(index, value)| Sample { at: (index as i64).pow(7), value: *value });
        check(&all.collect::<Vec<_>>());
        check(&[Sample { at: 0, value: 1.0 }, Sample { at: TIMES.end - 1, value: 1.0 }]);
        check(&[]);
    }

    #[test]
    fn samples_made_by_chance_come_out_as_well() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let mut at = random.i64(0..1 << 45);
            let mut value = 0.0;
            let samples = (0..random.usize(0..50)).map(|_| {
                at += 1 + random.i64(0..20_000) * random.i64(0..20);
                value = match random.u8(0..5) {
                    0 => value,
                    1 => value + f64::from(random.u16(..)),
                    2 => random.f64(),
                    3 => f64::from_bits(random.u64(..)),
                    _ => 0.0,
                };
                Sample { at, value }
            });
            check(&samples.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_counter_takes_few_bytes() {
        let counter = |by: f64| (0..180).map(move |index| Sample { at: 1_700_000_000_123 + index * 10_000, value: by * index as f64 });
        assert!(check(&counter(37.0).collect::<Vec<_>>()) < 2 * 180 + 32);
        assert!(check(&counter(0.0).collect::<Vec<_>>()) < 180 + 32);
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let mut chunk = Chunk::default();
        (0..9).for_each(|index| chunk.push(Sample { at: index * 1000, value: index as f64 / 3.0 }));
        for end in 1..chunk.bytes().len() {
            // Some prefixes are whole chunks, none may panic.
            let _ = decode(&chunk.bytes()[..end], &mut Vec::new());
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..5000 {
            let bytes: Vec<u8> = (0..random.usize(0..60)).map(|_| random.u8(..)).collect();
            let _ = decode(&bytes, &mut Vec::new());
        }
        assert_eq!(decode(&[0x80], &mut Vec::new()), None);
    }
}
