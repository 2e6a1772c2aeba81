//! `janus chat`: a conversation in the terminal, streamed.
//!
//! Works with piped input too: each line is a message, answers go to standard output, everything else
//! to standard error.

mod local;
mod remote;

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use super::DONE;
use super::arguments::ChatArguments;
use super::output::Paint;
use crate::config;
use crate::open::Opener;

/// One message; roles are OpenAI's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub role: &'static str,
    pub content: String,
}

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub struct Answering {
    pub temperature: f32,
    pub max_tokens: usize,
}

/// Who answers: a server, or an engine in this process.
trait Partner {
    /// Shown at the start.
    fn describe(&self) -> String;
    /// Streams the answer to `messages` into `out`.
    fn answer(&mut self, messages: &[Message], out: &mut dyn FnMut(&str)) -> anyhow::Result<()>;
}

pub fn run(arguments: &ChatArguments, folder: Option<&Path>) -> anyhow::Result<u8> {
    let mut partner = partner(arguments, folder)?;
    let screen = Screen::new();
    screen.note(&format!("{}. /exit leaves, /reset begins anew.", partner.describe()));
    let mut conversation = Conversation::new(arguments.system.clone());
    let mut lines = std::io::stdin().lock().lines();
    loop {
        screen.prompt();
        let Some(line) = lines.next() else { break };
        match conversation.take(&line?) {
            Action::Nothing => {}
            Action::Say(text) => screen.note(&text),
            Action::Leave => return Ok(DONE),
            Action::Answer => converse(&mut *partner, &mut conversation)?,
        }
    }
    Ok(DONE)
}

/// `--url`, else a server on the default port that has the model, else an engine of its own.
fn partner(arguments: &ChatArguments, folder: Option<&Path>) -> anyhow::Result<Box<dyn Partner>> {
    let answering = Answering { temperature: arguments.temperature, max_tokens: arguments.max_tokens };
    let (model, key) = (arguments.model.as_deref(), arguments.api_key.as_deref());
    if let Some(url) = &arguments.url {
        return Ok(Box::new(remote::Server::connect(url, model, key, answering)?));
    }
    let default = format!("http://{}", config::Config::default().server.listen);
    if let Ok(server) = remote::Server::connect(&default, model, key, answering) {
        return Ok(Box::new(server));
    }
    let opener = Opener::new(folder, arguments.threads)?;
    Ok(Box::new(local::Local::start(&opener, model, answering)?))
}

/// Streams one answer to standard output and remembers it. A partner that fails ends piped input, but
/// on a terminal the user can go on.
fn converse(partner: &mut dyn Partner, conversation: &mut Conversation) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut answer = String::new();
    let answered = partner.answer(&conversation.messages, &mut |text| {
        answer.push_str(text);
        // A closed pipe shows at the last write below.
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    });
    writeln!(stdout)?;
    match answered {
        Ok(()) => conversation.messages.push(Message { role: "assistant", content: answer }),
        Err(error) if std::io::stdin().is_terminal() => {
            conversation.messages.pop();
            eprintln!("error: {error:#}");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Prompts and notes, on standard error; prompts only when someone types.
struct Screen {
    paint: Paint,
    typed: bool,
}

impl Screen {
    fn new() -> Screen {
        let typed = std::io::stdin().is_terminal();
        Screen { paint: Paint::new(std::io::stderr().is_terminal()), typed }
    }

    fn prompt(&self) {
        if self.typed {
            eprint!("{} ", self.paint.bold("\u{203a}"));
        }
    }

    fn note(&self, text: &str) {
        eprintln!("{}", self.paint.dim(text));
    }
}

/// What was said so far.
struct Conversation {
    messages: Vec<Message>,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Say(String),
    Answer,
    Leave,
}

impl Conversation {
    fn new(system: Option<String>) -> Conversation {
        let messages = system.into_iter().map(|content| Message { role: "system", content }).collect();
        Conversation { messages }
    }

    /// Takes in one line: a message or a command.
    fn take(&mut self, line: &str) -> Action {
        let line = line.trim();
        match line.split_once(' ').map_or((line, ""), |(command, rest)| (command, rest.trim())) {
            ("", _) => Action::Nothing,
            ("/exit" | "/quit" | "/bye", "") => Action::Leave,
            ("/reset", "") => {
                self.messages.retain(|message| message.role == "system");
                Action::Say("The conversation begins anew.".into())
            }
            ("/system", "") => Action::Say("Usage: /system TEXT".into()),
            ("/system", text) => {
                *self = Conversation::new(Some(text.to_owned()));
                Action::Say("The conversation begins anew, with this system message.".into())
            }
            ("/help", "") => Action::Say("/system TEXT, /reset, /exit; anything else is a message".into()),
            (command, _) if command.starts_with('/') => {
                Action::Say(format!("There is no command {command}; /help lists them."))
            }
            _ => {
                self.messages.push(Message { role: "user", content: line.to_owned() });
                Action::Answer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines typed in turn, what the last one asks for, and who has spoken then.
    fn check(lines: &[&str], action: Action, roles: &[&str]) {
        let mut conversation = Conversation::new(Some("be brief".into()));
        let last = lines.iter().map(|line| conversation.take(line)).last().unwrap();
        assert_eq!(std::mem::discriminant(&last), std::mem::discriminant(&action), "{lines:?}: {last:?}");
        let found: Vec<&str> = conversation.messages.iter().map(|message| message.role).collect();
        assert_eq!(found, roles, "{lines:?}");
    }

    #[test]
    fn lines_are_messages_or_commands() {
        let say = || Action::Say(String::new());
        check(&["hello"], Action::Answer, &["system", "user"]);
        check(&["  "], Action::Nothing, &["system"]);
        check(&["hello", "/reset"], say(), &["system"]);
        check(&["hello", "/system be long"], say(), &["system"]);
        check(&["/system"], say(), &["system"]);
        check(&["/help"], say(), &["system"]);
        check(&["/nonsense"], say(), &["system"]);
        check(&["/exit"], Action::Leave, &["system"]);
        check(&["/quit"], Action::Leave, &["system"]);
    }
}
