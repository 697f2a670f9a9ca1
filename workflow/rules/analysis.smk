# Tables, figures and report. Their own code is among their inputs, so that a change in it makes them again.


rule fidelity:  # `snakemake fidelity`: how true every recipe's transitions are; trains no learner
    input:
        [seal_of(layout.assessment(*key)) for key in all_synthetic_sets(experiment)],
        [seal_of(folder) for folder in trained_models(layout, experiment).values()],
        [seal_of(layout.dataset(name)) for name in experiment.datasets],
        code("fidelity_page"),
    output:
        [inside(layout.fidelity, f"fidelity.{kind}") for kind in ("csv", "md", "png", "pdf")],
        inside(layout.fidelity, "models.csv"),
        seal_of(layout.fidelity),
    log:
        inside(logs, "fidelity.log"),
    benchmark:
        inside(benchmarks, "fidelity.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=EXPERIMENT,
        folder=layout.root,
    shell:
        "exec python -m dawm fidelity --results {params.folder:q} --settings {params.settings:q} 2> {log:q}"


rule animate:
    input:
        dataset=dataset_seal,
        synthetic=seal_of(layout.synthetic("{dataset}", "{generator}", "{seed}")),
    output:
        seal_of(layout.animation("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "animate", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "animate", "{dataset}", "{generator}", "seed-{seed}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        version=1,
        settings=text(experiment.animation),
        dataset=dataset_folder,
        synthetic=recipe_folder("synthetic"),
        folder=recipe_folder("animation"),
    shell:
        "exec python -m dawm animate --dataset {params.dataset:q} --synthetic {params.synthetic:q}"
        " --name {wildcards.generator} --settings {params.settings:q} --output {params.folder:q} 2> {log:q}"


rule animations:  # `snakemake animations`: every recipe's imagined rollouts beside the simulator's
    input:
        [seal_of(layout.animation(*key)) for key in all_synthetic_sets(experiment)],


rule steer:
    input:
        unpack(model_seals),
    output:
        table=inside(layout.steering("{dataset}", "{generator}", "{seed}"), "steering.csv"),
        seal=seal_of(layout.steering("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "steer", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "steer", "{dataset}", "{generator}", "seed-{seed}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
        gpu=0,
    params:
        version=3,
        settings=text(experiment.steering),
        synthesis=part("synthesis"),
        dataset=dataset_folder,
        models=model_options,
        folder=recipe_folder("steering"),
    shell:
        "exec python -m dawm steer --dataset {params.dataset:q} {params.models:q} --settings {params.settings:q}"
        " --synthesis {params.synthesis:q} --output {params.folder:q} 2> {log:q}"


rule steering:  # `snakemake steering`: how every recipe obeys a request, and what its planner earns; trains no learner
    input:
        [seal_of(layout.steering(*key)) for key in steerings(experiment)],
        [seal_of(layout.dataset(name)) for name in experiment.datasets],
        code("steering_page"),
    output:
        [inside(layout.steering_page, f"steering.{kind}") for kind in ("csv", "md", "png", "pdf")],
        seal_of(layout.steering_page),
    log:
        inside(logs, "steering.log"),
    benchmark:
        inside(benchmarks, "steering.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=EXPERIMENT,
        folder=layout.root,
    shell:
        "exec python -m dawm steering --results {params.folder:q} --settings {params.settings:q} 2> {log:q}"


rule tables:
    input:
        [seal_of(layout.policy(run)) for run in runs(matrix)],
        [seal_of(layout.dataset(name)) for name in matrix.datasets],
        [seal_of(layout.assessment(*key)) for key in synthetic_sets(matrix)],
        [seal_of(layout.steering(*key)) for key in planners(matrix)],
        code("tables"),
    output:
        [str(path) for path in layout.table_files],
        seal_of(layout.tables),
    log:
        inside(logs, "tables.log"),
    benchmark:
        inside(benchmarks, "tables.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=EXPERIMENT,
        folder=layout.root,
    shell:
        "exec python -m dawm tables --results {params.folder:q} --settings {params.settings:q} 2> {log:q}"


rule timings:  # after all of the report's jobs, whose times it collects
    input:
        [seal_of(folder) for folder in (layout.tables, layout.comparison, layout.figures)],
        [seal_of(layout.film(run)) for run in filmed_runs(matrix)],
        [seal_of(layout.animation(*key)) for key in animated_sets(experiment)],
        code("timings"),
    output:
        seal_of(layout.timings),
    log:
        inside(logs, "timings.log"),
    benchmark:
        inside(benchmarks, "timings.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=EXPERIMENT,
        folder=layout.root,
        output=layout.timings,
    shell:
        "exec python -m dawm timings --results {params.folder:q} --settings {params.settings:q}"
        " --output {params.output:q} 2> {log:q}"


rule compare:
    input:
        seal_of(layout.tables),
        code("comparison"),
        scores=str(layout.tables / "scores.csv"),
    output:
        seal_of(layout.comparison),
    log:
        inside(logs, "compare.log"),
    benchmark:
        inside(benchmarks, "compare.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        folder=layout.comparison,
    shell:
        "exec python -m dawm compare {input.scores:q} --output {params.folder:q} 2> {log:q}"


rule figures:
    input:
        seal_of(layout.tables),
        code("figures"),
    output:
        seal_of(layout.figures),
    log:
        inside(logs, "figures.log"),
    benchmark:
        inside(benchmarks, "figures.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        tables=layout.tables,
        folder=layout.figures,
    shell:
        "exec python -m dawm figures --tables {params.tables:q} --output {params.folder:q} 2> {log:q}"


rule film:
    input:
        seal_of(policy_folder("{dataset}", "{algorithm}", "{augmentation}", "{seed}")),
    output:
        seal_of(layout.film(Run("{dataset}", "{algorithm}", "{augmentation}", "{seed}"))),
    log:
        inside(logs, "film", "{dataset}", "{algorithm}", "{augmentation}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "film", "{dataset}", "{algorithm}", "{augmentation}", "seed-{seed}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        version=1,
        policy=lambda wildcards: policy_folder(**wildcards),
        folder=lambda wildcards: layout.film(Run(**wildcards)),
    shell:
        "exec python -m dawm film --policy {params.policy:q} --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"


rule report:
    input:
        [seal_of(folder) for folder in (layout.tables, layout.comparison, layout.figures, layout.timings)],
        [seal_of(layout.film(run)) for run in filmed_runs(matrix)],
        [seal_of(layout.animation(*key)) for key in animated_sets(experiment)],
        code("report"),
        beside_code("published_scores.csv"),
        beside_code("report.html.j2"),
    output:
        str(layout.report),
        seal_of(layout.root),
    log:
        inside(logs, "report.log"),
    benchmark:
        inside(benchmarks, "report.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
        gpu=0,
    params:
        settings=text(experiment),
        folder=layout.root,
    shell:
        "exec python -m dawm report --results {params.folder:q} --settings {params.settings:q} 2> {log:q}"
