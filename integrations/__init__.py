"""Bridges to other libraries, installed as `diffaug.integrations`; each imports its library when it is used."""
