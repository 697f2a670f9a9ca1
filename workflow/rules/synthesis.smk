# Synthetic transitions: one job per shard, then the seal; and how true they are.


rule synthesize:
    input:
        unpack(model_seals),
    output:
        inside(layout.synthetic("{dataset}", "{generator}", "{seed}"), "shard-{shard}-of-{shards}.parquet"),
    log:
        inside(logs, "synthesize", "{dataset}", "{generator}", "seed-{seed}", "{shard}-of-{shards}.log"),
    benchmark:
        inside(benchmarks, "synthesize", "{dataset}", "{generator}", "seed-{seed}", "{shard}-of-{shards}.tsv")
    priority: 80
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
        gpu=0,
    params:
        version=shards_version,
        settings=part("synthesis"),
        compute=SYNTHESIS_COMPUTE,
        dataset=dataset_folder,
        models=model_options,
        folder=recipe_folder("synthetic"),
        shard=lambda wildcards: int(wildcards.shard),
    shell:
        "exec python -m dawm synthesize --shard {params.shard} --dataset {params.dataset:q}"
        " {params.models:q} --settings {params.settings:q} {params.compute} --output {params.folder:q} 2> {log:q}"


rule seal_synthetic:
    input:
        unpack(model_seals),
        shards=shard_files,
    output:
        metadata=inside(layout.synthetic("{dataset}", "{generator}", "{seed}"), "metadata.json"),
        seal=seal_of(layout.synthetic("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "seal-synthetic", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "seal-synthetic", "{dataset}", "{generator}", "seed-{seed}.tsv")
    priority: 80
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=0,
    params:
        version=shards_version,
        settings=part("synthesis"),
        dataset=dataset_folder,
        models=model_options,
        folder=recipe_folder("synthetic"),
    shell:
        "exec python -m dawm synthesize --seal --dataset {params.dataset:q}"
        " {params.models:q} --settings {params.settings:q} --output {params.folder:q} 2> {log:q}"


rule assess:
    input:
        dataset=dataset_seal,
        synthetic=seal_of(layout.synthetic("{dataset}", "{generator}", "{seed}")),
        inverse_dynamics=inverse_dynamics_seal,
    output:
        table=inside(layout.assessment("{dataset}", "{generator}", "{seed}"), "fidelity.csv"),
        seal=seal_of(layout.assessment("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "assess", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "assess", "{dataset}", "{generator}", "seed-{seed}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
        gpu=0,
    params:
        version=3,
        settings=text(experiment.assessment),
        dataset=dataset_folder,
        synthetic=recipe_folder("synthetic"),
        inverse_dynamics=inverse_dynamics_option,
        folder=recipe_folder("assessment"),
    shell:
        "exec python -m dawm assess --dataset {params.dataset:q} --synthetic {params.synthetic:q}"
        " {params.inverse_dynamics:q} --name {wildcards.generator} --settings {params.settings:q}"
        " --output {params.folder:q} 2> {log:q}"
