//! The auth events of an event in few bytes: how far each lies below the event, as variable-length integers.

/// The stored form of positions below `position`; None where one is not below it.
pub fn pack(position: u64, auth: &[u64]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(auth.len() * 3);
    for &cited in auth {
        let mut rest = position.checked_sub(cited).filter(|&distance| distance > 0)?;
        loop {
            let [low, ..] = rest.to_le_bytes();
            rest >>= 7;
            if rest == 0 {
                bytes.push(low);
                break;
            }
            bytes.push(low | 0x80);
        }
    }
    Some(bytes)
}

/// The positions of a stored form; None where it is none.
pub fn unpack(position: u64, bytes: &[u8]) -> Option<Vec<u64>> {
    let mut auth = Vec::with_capacity(bytes.len() / 2 + 1);
    let (mut distance, mut shift) = (0_u64, 0_u32);
    for &byte in bytes {
        if shift > 56 {
            return None;
        }
        distance |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            auth.push(position.checked_sub(distance)?);
            (distance, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(auth)
}
