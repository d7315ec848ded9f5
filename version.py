__version__ = "0.15.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "fe90308efde2c8f2cbb8c0d673ebf29d560d5956636a16afa23bebc907818647"
