__version__ = "0.12.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "674b66cc1e38ac32d33f095961117bb008a61a555ab82986c6e609baba17df47"
