__version__ = "0.5.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "2e9aa3263fdf28d84e7265502af8a888636fcdbe2a385eba729c217210657a12"
