__version__ = "0.14.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "a9b8a2fc57fc9550d0f3200b7686cc87a3870faeccc586ce4bf8a49e160b059d"
