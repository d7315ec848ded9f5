__version__ = "0.13.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "832ef82a2f8d657f501bacda57cc1a19f1fe6cce0fd800d04dd3704cedb88107"
