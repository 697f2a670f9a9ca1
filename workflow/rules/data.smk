# A source becomes a sealed data set.


rule export:
    input:
        source_file,
    output:
        metadata=inside(layout.dataset("{dataset}"), "metadata.json"),
        seal=seal_of(layout.dataset("{dataset}")),
    log:
        inside(logs, "export", "{dataset}.log"),
    benchmark:
        inside(benchmarks, "export", "{dataset}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=60,
        gpu=0,
    params:
        version=1,
        settings=lambda wildcards: text(experiment.datasets[wildcards.dataset]),
        folder=lambda wildcards: layout.dataset(wildcards.dataset),
    shell:
        "exec python -m dawm export --settings {params.settings:q} --output {params.folder:q} 2> {log:q}"
