__version__ = "0.15.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "eed954c626c0947f1d4f96ef897d461c942ad9d612fbd1121172e5c67ab37844"
