//! A subscription's filter over messages: a set of tags, or an SQL92 condition.

mod parser;
pub mod sql;

use crate::{
    codec::{
        proto::{Code, FilterExpression, FilterType, Message},
        status::Fault,
    },
    limits::Limits,
};

/// A filter, parsed once per receive request.
#[derive(Clone, Debug, PartialEq)]
pub enum MessageFilter {
    All,
    /// Any of these tags, compared whole.
    Tags(Vec<String>),
    Sql(sql::Condition),
}

impl MessageFilter {
    /// Reads a filter expression; a missing one wants everything.
    pub fn parse(expression: Option<&FilterExpression>, limits: &Limits) -> Result<Self, Fault> {
        let Some(expression) = expression else { return Ok(Self::All) };
        let illegal = |why: String| Fault::new(Code::IllegalFilterExpression, why);
        let text = expression.expression.as_str();
        if text.len() > limits.filter_bytes_max {
            return Err(illegal(format!("the filter has {} bytes, too many", text.len())));
        }
        match expression.r#type() {
            FilterType::Sql => {
                let condition = sql::Condition::parse(text);
                condition.map(Self::Sql).map_err(|error| illegal(error.to_string()))
            }
            FilterType::Tag | FilterType::Unspecified => match text.trim() {
                "" | "*" => Ok(Self::All),
                text => {
                    let tags = text.split("||").map(str::trim).filter(|tag| !tag.is_empty());
                    let tags: Vec<_> = tags.map(str::to_owned).collect();
                    if tags.is_empty() {
                        return Err(illegal(format!("the filter '{text}' names no tag")));
                    }
                    Ok(Self::Tags(tags))
                }
            },
        }
    }

    /// Whether it wants a message.
    #[must_use]
    pub fn wants(&self, message: &Message) -> bool {
        let system = message.system_properties.as_ref();
        let tag = system.and_then(|system| system.tag.as_deref()).filter(|tag| !tag.is_empty());
        match self {
            Self::All => true,
            Self::Tags(tags) => tag.is_some_and(|tag| tags.iter().any(|wanted| wanted == tag)),
            Self::Sql(condition) => condition.holds(&|name| match name {
                "TAGS" => tag.map(str::to_owned),
                "KEYS" => {
                    system.map(|system| system.keys.join(" ")).filter(|keys| !keys.is_empty())
                }
                _ => message.user_properties.get(name).cloned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::proto::SystemProperties;

    fn parse(kind: FilterType, text: &str) -> Result<MessageFilter, Code> {
        let expression = FilterExpression { r#type: kind as i32, expression: text.to_owned() };
        MessageFilter::parse(Some(&expression), &Limits::default()).map_err(|fault| fault.code)
    }

    fn tagged(tag: Option<&str>) -> Message {
        let tag = tag.map(str::to_owned);
        let system = SystemProperties { tag, ..Default::default() };
        Message { system_properties: Some(system), ..Default::default() }
    }

    #[test]
    fn tags_are_a_set_compared_whole() {
        let wants = |filter: &str, tag: Option<&str>| {
            parse(FilterType::Tag, filter).unwrap().wants(&tagged(tag))
        };
        for filter in ["*", "", " * "] {
            assert!(wants(filter, None) && wants(filter, Some("a")), "{filter}");
        }
        assert!(wants("a||b", Some("a")) && wants("a ||  b", Some("b")) && wants("a||", Some("a")));
        assert!(!wants("a || b", Some("c")) && !wants("a", None) && !wants("a", Some("")));
        // Tags whose Java hash codes are equal, and tags that differ in case.
        assert!(!wants("Aa", Some("BB")) && !wants("tag", Some("TAG")));
        assert!(wants("dev1/temp", Some("dev1/temp")));
        assert_eq!(parse(FilterType::Tag, "||"), Err(Code::IllegalFilterExpression));
    }

    #[test]
    fn sql_sees_properties_tag_and_keys() {
        let mut message = tagged(Some("G"));
        message.user_properties.insert("price".to_owned(), "21".to_owned());
        let wants = |filter: &str| parse(FilterType::Sql, filter).unwrap().wants(&message);
        assert!(wants("TAGS = 'G' AND price > 20"));
        assert!(!wants("price > 21"));
        assert!(wants("KEYS IS NULL AND nothing IS NULL"));
        assert_eq!(parse(FilterType::Sql, "price >"), Err(Code::IllegalFilterExpression));
    }
}
