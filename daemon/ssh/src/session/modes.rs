//! Terminal modes as a client sends them (RFC 4254, section 8), onto a terminal of ours.

use std::os::fd::BorrowedFd;

use bytes::Bytes;
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices as Character, Termios,
    tcgetattr, tcsetattr,
};

use crate::wire::Reader;

const END: u8 = 0;
/// Opcodes from here on have no argument that can be skipped.
const UNDEFINED: u8 = 160;
/// More modes than this is not a terminal.
const MAX_MODES: usize = 256;
/// A special character that is switched off.
const DISABLED: u32 = 255;

/// The modes that a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Modes(Vec<(u8, u32)>);

impl Modes {
    /// Takes what it can read; a client's mistake here is not worth refusing a terminal for.
    pub(super) fn parse(encoded: Bytes) -> Self {
        let mut reader = Reader::new(encoded);
        let mut modes = Vec::new();
        while modes.len() < MAX_MODES
            && let Ok(opcode) = reader.u8()
            && (END + 1..UNDEFINED).contains(&opcode)
            && let Ok(value) = reader.u32()
        {
            modes.push((opcode, value));
        }
        Self(modes)
    }

    /// Sets the terminal's modes. Speeds are ignored.
    pub(super) fn apply(&self, terminal: BorrowedFd<'_>) {
        let Ok(mut termios) = tcgetattr(terminal) else { return };
        for (opcode, value) in &self.0 {
            set(&mut termios, *opcode, *value);
        }
        if let Err(error) = tcsetattr(terminal, SetArg::TCSANOW, &termios) {
            tracing::debug!(%error, "could not set a terminal's modes");
        }
    }
}

fn set(termios: &mut Termios, opcode: u8, value: u32) {
    let on = value != 0;
    match opcode {
        1..=18 => {
            if let Some(index) = character(opcode) {
                // 0 disables a character in termios, 255 in the protocol.
                termios.control_chars[index as usize] =
                    if value == DISABLED { 0 } else { u8::try_from(value).unwrap_or(0) };
            }
        }
        30..=42 => {
            let flags = [
                InputFlags::IGNPAR,
                InputFlags::PARMRK,
                InputFlags::INPCK,
                InputFlags::ISTRIP,
                InputFlags::INLCR,
                InputFlags::IGNCR,
                InputFlags::ICRNL,
                InputFlags::empty(),
                InputFlags::IXON,
                InputFlags::IXANY,
                InputFlags::IXOFF,
                InputFlags::IMAXBEL,
                InputFlags::IUTF8,
            ];
            termios.input_flags.set(flags[usize::from(opcode - 30)], on);
        }
        50..=62 => {
            let flags = [
                LocalFlags::ISIG,
                LocalFlags::ICANON,
                LocalFlags::empty(),
                LocalFlags::ECHO,
                LocalFlags::ECHOE,
                LocalFlags::ECHOK,
                LocalFlags::ECHONL,
                LocalFlags::NOFLSH,
                LocalFlags::TOSTOP,
                LocalFlags::IEXTEN,
                LocalFlags::ECHOCTL,
                LocalFlags::ECHOKE,
                LocalFlags::PENDIN,
            ];
            termios.local_flags.set(flags[usize::from(opcode - 50)], on);
        }
        70 => termios.output_flags.set(OutputFlags::OPOST, on),
        72 => termios.output_flags.set(OutputFlags::ONLCR, on),
        73 => termios.output_flags.set(OutputFlags::OCRNL, on),
        74 => termios.output_flags.set(OutputFlags::ONOCR, on),
        75 => termios.output_flags.set(OutputFlags::ONLRET, on),
        90 if on => set_size(termios, ControlFlags::CS7),
        91 if on => set_size(termios, ControlFlags::CS8),
        92 => termios.control_flags.set(ControlFlags::PARENB, on),
        93 => termios.control_flags.set(ControlFlags::PARODD, on),
        _ => {}
    }
}

fn set_size(termios: &mut Termios, size: ControlFlags) {
    termios.control_flags.remove(ControlFlags::CSIZE);
    termios.control_flags.insert(size);
}

fn character(opcode: u8) -> Option<Character> {
    Some(match opcode {
        1 => Character::VINTR,
        2 => Character::VQUIT,
        3 => Character::VERASE,
        4 => Character::VKILL,
        5 => Character::VEOF,
        6 => Character::VEOL,
        7 => Character::VEOL2,
        8 => Character::VSTART,
        9 => Character::VSTOP,
        10 => Character::VSUSP,
        12 => Character::VREPRINT,
        13 => Character::VWERASE,
        14 => Character::VLNEXT,
        18 => Character::VDISCARD,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::Writer;

    proptest! {
        #[test]
        fn any_bytes_parse_and_apply(bytes: Vec<u8>) {
            let modes = Modes::parse(bytes.into());
            let pty = pinfold_pty::Pty::open(pinfold_pty::Size::default()).unwrap();
            modes.apply(pty.terminal());
        }
    }

    #[test]
    fn turns_echo_off_and_sets_characters() {
        let modes = Modes::parse(Writer::default().u8(53).u32(0).u8(1).u32(7).u8(9).u32(255).u8(0).finish());
        assert_eq!(modes.0, [(53, 0), (1, 7), (9, 255)]);
        let pty = pinfold_pty::Pty::open(pinfold_pty::Size::default()).unwrap();
        modes.apply(pty.terminal());
        let termios = tcgetattr(pty.terminal().as_fd()).unwrap();
        assert!(!termios.local_flags.contains(LocalFlags::ECHO));
        assert_eq!(termios.control_chars[Character::VINTR as usize], 7);
        assert_eq!(termios.control_chars[Character::VSTOP as usize], 0);
    }
}
