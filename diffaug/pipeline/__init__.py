"""The stages run inside a study: what is finished is kept, what is new is narrated, logged and committed."""
