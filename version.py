__version__ = "0.1.0"
# The SHA-256 of the code that is saved with models of this version. Whoever changes that code raises the version: a
# file is known by it (hub_card/provenance.py). tests/test_export.py says what to write here.
EXPORTED_CODE = "99e06ddfd91b995c2c644ebbb3608dec2cede787076cee441b1cf4cda30d3e61"
