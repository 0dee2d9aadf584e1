//! The token of routes that show or change the content of telemetry.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use safe_dir::SafeDir;
use subtle::ConstantTimeEq as _;

/// The variable that holds the token.
const VARIABLE: &str = "TELEMETRY_SERVICE_TOKEN";

/// The variable that names a file which holds it.
const FILE_VARIABLE: &str = "TELEMETRY_SERVICE_TOKEN_FILE";

/// The name of the file that [`Token::in_dir`] makes.
const FILE: &str = "service-token";

/// Characters of a token, at least and at most.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=256;

/// Random bytes of a token that is made here.
const RANDOM_BYTES: usize = 32;

/// The secret that a client sends as `Authorization: Bearer TOKEN`. `Debug` does not show it.
#[derive(Clone)]
pub struct Token {
    /// Padded, so that a comparison takes the same time for all lengths.
    padded: [u8; 256],
    length: usize,
}

impl Token {
    /// A token of a program's own: 16 to 256 visible ASCII characters and blanks, without blanks at its ends.
    ///
    /// # Errors
    ///
    /// [`TokenError::Unfit`] if it is another text.
    pub fn new(token: impl AsRef<str>) -> Result<Self, TokenError> {
        let token = token.as_ref();
        let is_visible = token.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !is_visible || token.trim() != token || !LENGTHS.contains(&token.len()) {
            return Err(TokenError::Unfit { characters: token.chars().count() });
        }
        Ok(Self::padded(token.as_bytes()))
    }

    /// The first line of a file, such as a mounted secret; blanks around it do not count. 4 KiB at most are read.
    ///
    /// # Errors
    ///
    /// [`TokenError::File`] if the file cannot be read or is none; [`TokenError::Unfit`] as [`new`](Self::new).
    pub fn read(path: impl AsRef<Path>) -> Result<Self, TokenError> {
        let path = path.as_ref();
        let unreadable = |source| TokenError::File { path: path.to_owned(), source };
        // A FIFO would hold the start up.
        if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")));
        }
        let mut text = String::new();
        File::open(path).and_then(|file| file.take(4 << 10).read_to_string(&mut text)).map_err(unreadable)?;
        Self::new(text.lines().next().unwrap_or_default().trim())
    }

    /// The token in the file `service-token` of this directory, which all processes of a service share. Makes the
    /// directory (0700) and the file (0600) where there are none, with 32 random bytes as 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), or if the directory cannot be used or is not safe to use.
    pub fn in_dir(dir: impl AsRef<Path>) -> Result<Found, TokenError> {
        let dir = SafeDir::open(dir.as_ref())
            .map_err(|error| TokenError::File { path: dir.as_ref().to_owned(), source: io::Error::other(error) })?;
        let path = safe_dir::Directory::path(&dir).join(FILE);
        let mut is_made = false;
        if !path.exists() {
            let mut random = [0; RANDOM_BYTES];
            getrandom::fill(&mut random)
                .map_err(|error| TokenError::File { path: path.clone(), source: io::Error::other(error) })?;
            let text = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let made = safe_dir::publish(&dir, FILE, |file| writeln!(file, "{text}"));
            // Another process of the service may have been first: its token is the one.
            is_made = made.is_ok();
            if let Err(error) = made
                && !path.exists()
            {
                return Err(TokenError::File { path, source: io::Error::other(error) });
            }
        }
        Ok(Found { token: Self::read(&path)?, file: Some(path), is_made })
    }

    /// The token of `TELEMETRY_SERVICE_TOKEN`, else of the file that `TELEMETRY_SERVICE_TOKEN_FILE` names, else the one
    /// [in](Self::in_dir) `state_dir`. None without all of these. `vars` is `std::env::var_os`, as a rule; empty
    /// variables count as unset.
    ///
    /// # Errors
    ///
    /// As the functions for each; a token that was chosen and is unfit is never replaced by another.
    pub fn from_vars(
        vars: impl Fn(&str) -> Option<OsString>,
        state_dir: Option<&Path>,
    ) -> Result<Option<Found>, TokenError> {
        let set = |name: &str| vars(name).filter(|value| !value.is_empty());
        if let Some(token) = set(VARIABLE) {
            // Text that is no UTF-8 has a replacement character, which no token may have.
            let token = Self::new(token.to_string_lossy().trim())?;
            return Ok(Some(Found { token, file: None, is_made: false }));
        }
        if let Some(path) = set(FILE_VARIABLE).map(PathBuf::from) {
            return Ok(Some(Found { token: Self::read(&path)?, file: Some(path), is_made: false }));
        }
        state_dir.map(Self::in_dir).transpose()
    }

    fn padded(token: &[u8]) -> Self {
        let mut padded = [0; 256];
        padded[..token.len()].copy_from_slice(token);
        Self { padded, length: token.len() }
    }

    /// Whether `given` is the token. Takes the same time for each text of up to 256 bytes.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        if given.len() > self.padded.len() {
            return false;
        }
        let given = Self::padded(given);
        let is_equal = given.padded.ct_eq(&self.padded) & (given.length as u64).ct_eq(&(self.length as u64));
        is_equal.into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// A token and its place.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The token.
    pub token: Token,
    /// The file that it was read from; none if it stood in a variable.
    pub file: Option<PathBuf>,
    /// Whether the file was made by this call.
    pub is_made: bool,
}

/// A token that cannot be used. No text of a token is in it.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// Too short, too long, or not made of visible ASCII characters.
    Unfit {
        /// Its length.
        characters: usize,
    },
    /// The file or its directory cannot be used.
    File {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit { characters } => write!(
                f,
                "the service's token has {characters} characters: it must have {} to {}, all of them visible ASCII",
                LENGTHS.start(),
                LENGTHS.end()
            ),
            Self::File { path, source } => {
                write!(f, "the service's token in {} cannot be used: {source}; set {VARIABLE}", path.display())
            }
        }
    }
}

impl std::error::Error for TokenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unfit { .. } => None,
            Self::File { source, .. } => Some(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_token_is_equal_to_itself_alone() {
        let token = Token::new(TOKEN).expect("fit");
        assert!(token.is(TOKEN.as_bytes()));
        for other in ["", "0123456789abcdeg", "0123456789abcde", "0123456789abcdef0", "0123456789abcdef\0"] {
            assert!(!token.is(other.as_bytes()), "{other:?}");
        }
        assert!(!token.is(&[b'0'; 257]));
        assert_eq!(format!("{token:?}"), "Token(***)");
    }

    #[test]
    fn short_long_and_invisible_tokens_are_refused_without_being_shown() {
        for (unfit, characters) in
            [(String::new(), 0), ("s3cret".to_owned(), 6), ("x".repeat(257), 257), (format!("{TOKEN}\u{7f}"), 17)]
        {
            let error = Token::new(&unfit).expect_err("unfit");
            assert!(matches!(error, TokenError::Unfit { characters: n } if n == characters), "{error}");
            assert!(error.to_string().contains("16 to 256") && !error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn a_token_is_made_once_for_this_user_alone() {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("state");
        let made = Token::in_dir(&dir).expect("a token");
        let file = made.file.expect("a file");
        let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!((made.is_made, mode & 0o7777), (true, 0o600));
        let text = std::fs::read_to_string(&file).expect("text");
        assert_eq!(text.trim().len(), 64);
        let again = Token::in_dir(&dir).expect("a token");
        assert!(!again.is_made && again.token.is(text.trim().as_bytes()));
        let other = Token::in_dir(scratch.path().join("other")).expect("a token");
        assert!(!other.token.is(text.trim().as_bytes()));
    }

    #[test]
    fn the_variable_beats_the_file_which_beats_the_directory() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (dir, file) = (scratch.path().join("state"), scratch.path().join("token"));
        std::fs::write(&file, format!(" {TOKEN}-file \nmore\n")).expect("a file");
        let found = |set: &[(&str, &str)]| {
            let vars = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| OsString::from(value));
            Token::from_vars(vars, Some(&dir))
        };
        let file = file.to_str().expect("text");
        let both = [(VARIABLE, TOKEN), (FILE_VARIABLE, file)];
        assert!(found(&both).expect("fit").expect("a token").token.is(TOKEN.as_bytes()));
        let of_file = found(&[(VARIABLE, ""), (FILE_VARIABLE, file)]).expect("fit").expect("a token");
        assert!(of_file.token.is(format!("{TOKEN}-file").as_bytes()));
        assert!(!dir.exists(), "no token was made");
        assert!(found(&[]).expect("fit").expect("a token").is_made);
        // A choice that cannot be used is an error, and not another token.
        assert!(found(&[(VARIABLE, "short")]).is_err());
        assert!(found(&[(FILE_VARIABLE, "/dev/null")]).expect_err("no file").to_string().contains("/dev/null"));
        assert!(Token::from_vars(|_| None, None).expect("none").is_none());
    }
}
