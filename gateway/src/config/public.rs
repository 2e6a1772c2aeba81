//! Prefixes that tenants share: what `[[prefix.public]]` says of each.

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Auth, Client, ConfigError};

/// One beginning of prompts, given in one of four ways, and who shares it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Public {
    /// A chat's system message.
    pub system: String,
    /// A file with one.
    pub system_file: String,
    /// What prompts of completions begin with.
    pub text: String,
    /// A file with that.
    pub text_file: String,
    /// Served name of the model it is for. Empty: all.
    pub model: String,
    /// Tenants of `auth.clients` that share it. Empty: everybody.
    pub tenants: Vec<String>,
}

const KEY: &str = "prefix.public";

impl Public {
    /// # Errors
    /// [`ConfigError::Invalid`] unless it has one content, and tenants that some client belongs to.
    pub fn check(&self, auth: &Auth) -> Result<(), ConfigError> {
        let contents = [&self.system, &self.system_file, &self.text, &self.text_file];
        let given = contents.into_iter().filter(|content| !content.is_empty()).count();
        let is_known =
            |tenant: &&String| auth.clients.iter().map(Client::tenant).any(|known| known == *tenant);
        let reason = if given != 1 {
            "needs one of `system`, `system_file`, `text` and `text_file` in each section".to_owned()
        } else if let Some(stranger) = self.tenants.iter().find(|tenant| !is_known(tenant)) {
            format!("names the tenant `{stranger}`, to which no client of `auth.clients` belongs")
        } else {
            return Ok(());
        };
        Err(ConfigError::Invalid { key: KEY, reason })
    }

    /// The engine's own form.
    ///
    /// # Errors
    /// When a file cannot be read, naming it.
    pub fn prefix(&self) -> anyhow::Result<engine::PublicPrefix> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let content = if !self.system.is_empty() {
            engine::PublicContent::System(self.system.clone())
        } else if !self.system_file.is_empty() {
            engine::PublicContent::System(read(&self.system_file)?)
        } else if !self.text.is_empty() {
            engine::PublicContent::Text(self.text.clone())
        } else {
            engine::PublicContent::Text(read(&self.text_file)?)
        };
        let model = (!self.model.is_empty()).then(|| self.model.clone());
        Ok(engine::PublicPrefix { model, tenants: self.tenants.clone(), content })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Sources};
    use super::*;

    fn load(text: &str) -> Result<Vec<Public>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&Sources { file: Some(file.path()), ..Sources::default() });
        config.map(|config| config.prefix.public).map_err(|error| error.to_string())
    }

    #[test]
    fn prefixes_are_read_and_what_is_wrong_is_named() {
        let ann = "[[auth.clients]]\nname = \"ann\"\nkeys = [\"sesame\"]\ntenant = \"team\"\n";
        let public = "[[prefix.public]]\n";
        let read =
            load(&format!("{ann}{public}system = \"Be brief.\"\ntenants = [\"team\"]\n{public}text = \"x\""));
        let [first, second] = read.unwrap().try_into().unwrap();
        let prefix = first.prefix().unwrap();
        assert_eq!(prefix.content, engine::PublicContent::System("Be brief.".into()));
        assert_eq!((prefix.tenants, prefix.model), (vec!["team".to_owned()], None));
        assert_eq!(second.prefix().unwrap().tenants, Vec::<String>::new());
        for (text, expected) in [
            (public.to_owned(), "needs one of `system`"),
            (format!("{public}text = \"x\"\nsystem = \"y\""), "needs one of `system`"),
            (format!("{ann}{public}text = \"x\"\ntenants = [\"ann\"]"), "the tenant `ann`"),
            (format!("{public}sistem = \"y\""), "`prefix.public.sistem`; did you mean `system`?"),
            (format!("{public}system = [\"y\"]"), "`prefix.public.system` must be a string"),
            ("[prefix]\npublic = [\"x\"]".to_owned(), "`prefix.public` must be a section"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let missing = Public { text_file: "/nowhere/at all".into(), ..Public::default() };
        assert!(missing.prefix().unwrap_err().to_string().contains("/nowhere/at all"));
    }

    #[test]
    fn files_hold_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "Once upon a time").unwrap();
        let path = file.path().display().to_string();
        let text = Public { text_file: path.clone(), ..Public::default() };
        assert_eq!(text.prefix().unwrap().content, engine::PublicContent::Text("Once upon a time".into()));
        let system = Public { system_file: path, model: "m".into(), ..Public::default() };
        assert_eq!(
            system.prefix().unwrap().content,
            engine::PublicContent::System("Once upon a time".into())
        );
        assert_eq!(system.prefix().unwrap().model.as_deref(), Some("m"));
    }
}
