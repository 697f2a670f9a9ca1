# The entry of the workflow: the config, the rules by stage, and what `snakemake` is asked for.

if not workflow.overwrite_configfiles:  # a --configfile would be merged into this one, so it is loaded only without

    configfile: "config/quickstart.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/synthesis.smk"
include: "workflow/rules/policies.smk"
include: "workflow/rules/analysis.smk"


rule all:
    default_target: True
    input:
        layout.report,
