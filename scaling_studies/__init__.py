"""Runs, reports and the command line: what knows machines."""

if (
    __name__ != "qrt_tn.studies"
):  # a checkout as the working folder; a second copy of every class would follow
    raise ImportError("the folder scaling_studies/ is the package qrt_tn.studies; import it by that name")
