# A source becomes a sealed data set.


rule export:
    input:
        source_files,
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
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=0,
    params:
        version=1,
        settings=lambda wildcards: text(experiment.datasets[wildcards.dataset]),
        folder=dataset_folder,
        parent=lambda wildcards: [word for folder in parent_of(wildcards) for word in ("--parent", str(folder))],
    shell:
        "exec python -m dawm export --settings {params.settings:q} {params.parent:q} --output {params.folder:q} 2> {log:q}"


rule inspect:
    input:
        dataset_seal,
        code("inspection"),
    output:
        inside(layout.inspection("{dataset}"), "inspection.json"),
        inside(layout.inspection("{dataset}"), "inspection.png"),
        inside(layout.inspection("{dataset}"), "episodes.csv"),
        seal=seal_of(layout.inspection("{dataset}")),
    log:
        inside(logs, "inspect", "{dataset}.log"),
    benchmark:
        inside(benchmarks, "inspect", "{dataset}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=0,
    params:
        settings=text(experiment.inspection),
        dataset=dataset_folder,
        folder=lambda wildcards: layout.inspection(wildcards.dataset),
    shell:  # 3 and a whole folder: an alarm, which the page explains
        "python -m dawm inspect {params.dataset:q} --settings {params.settings:q} --output {params.folder:q}"
        " > {log:q} 2>&1 || {{ [ $? -eq 3 ] && [ -f {output.seal:q} ]; }}"


# `snakemake datasets` makes all data sets, looks into each, and puts them into one table and one figure.
rule datasets:
    input:
        [seal_of(layout.inspection(name)) for name in matrix.datasets],
        [seal_of(layout.dataset(name)) for name in matrix.datasets],
        code("overview"),
    output:
        [inside(layout.overview, name) for name in ("datasets.csv", "datasets.md", "returns.png", "returns.pdf")],
        seal_of(layout.overview),
    log:
        inside(logs, "datasets.log"),
    benchmark:
        inside(benchmarks, "datasets.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        datasets=list(matrix.datasets),
        folder=layout.root,
    shell:
        "exec python -m dawm describe --results {params.folder:q} --datasets {params.datasets:q} 2> {log:q}"
