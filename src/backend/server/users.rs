//! Who may use the server: names and passwords in memcached's format.

use thiserror::Error;

/// Longest name and password together that are looked at, in bytes; memcached's
/// bound.
pub(super) const LOGIN_BYTES_MAX: usize = 16_384;

/// Names with their passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Users(Vec<(Vec<u8>, Vec<u8>)>);

// Passwords stay out of logs.
impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

/// What is wrong with a file of users.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// A line without a colon.
    #[error("line {0} is not name:password")]
    NoColon(usize),
    /// Nobody could log in.
    #[error("no users")]
    Empty,
}

impl Users {
    /// Reads `name:password` lines. Whatever follows a second colon belongs to the
    /// password.
    ///
    /// # Errors
    ///
    /// If there is a line of another form, or none.
    pub fn read(text: &[u8]) -> Result<Self, Error> {
        let lines = text.split(|&byte| byte == b'\n').enumerate();
        let users = lines
            .map(|(at, line)| (at, line.strip_suffix(b"\r").unwrap_or(line)))
            .filter(|(_, line)| !line.is_empty())
            .map(|(at, line)| {
                let colon = line.iter().position(|&byte| byte == b':');
                let (name, rest) = colon
                    .and_then(|colon| line.split_at_checked(colon))
                    .ok_or(Error::NoColon(at + 1))?;
                let password = rest.get(1..).unwrap_or_default();
                Ok((name.to_vec(), password.to_vec()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if users.is_empty() {
            return Err(Error::Empty);
        }
        Ok(Self(users))
    }

    /// Whether somebody of this name has this password. Takes as long for a wrong
    /// one as for a right one.
    pub fn know(&self, name: &[u8], password: &[u8]) -> bool {
        self.0.iter().fold(false, |known, (n, p)| {
            known | (same(n, name) & same(p, password))
        })
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_passwords() {
        let users = Users::read(b"foo:bar\nbaaaz:qu:ux\r\n\n").unwrap();
        assert!(users.know(b"foo", b"bar"));
        assert!(users.know(b"baaaz", b"qu:ux"));
        assert!(!users.know(b"foo", b"qu:ux"));
        assert!(!users.know(b"foo", b"ba"));
        assert_eq!(Users::read(b"a:b\nc\n"), Err(Error::NoColon(2)));
        assert_eq!(Users::read(b"\n"), Err(Error::Empty));
        assert_eq!(format!("{users:?}"), "Users(2)");
    }
}
