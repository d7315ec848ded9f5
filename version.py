__version__ = "0.14.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "cbf49866862210dae72a992a71586cc3dd4a064e9dc287b4b2156a78e7b09f68"
