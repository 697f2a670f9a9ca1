# Synthetic transitions: one job per shard, then the seal; and how true they are.


rule synthesize:
    input:
        unpack(model_seals),
    output:
        inside(layout.synthetic("{dataset}", "{seed}"), f"shard-{{shard}}-of-{experiment.synthesis.shards:05d}.parquet"),
    log:
        inside(logs, "synthesize", "{dataset}", "seed-{seed}", "{shard}.log"),
    benchmark:
        inside(benchmarks, "synthesize", "{dataset}", "seed-{seed}", "{shard}.tsv")
    priority: 80
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=240,
        gpu=0,
    params:
        version=1,
        settings=text(experiment.synthesis),
        dataset=lambda wildcards: layout.dataset(wildcards.dataset),
        world_model=lambda wildcards: layout.world_model(wildcards.dataset, wildcards.seed),
        inverse_dynamics=lambda wildcards: layout.inverse_dynamics(wildcards.dataset, wildcards.seed),
        folder=lambda wildcards: layout.synthetic(wildcards.dataset, wildcards.seed),
        shard=lambda wildcards: int(wildcards.shard),
    shell:
        "exec python -m dawm synthesize --shard {params.shard} --dataset {params.dataset:q}"
        " --world-model {params.world_model:q} --inverse-dynamics {params.inverse_dynamics:q}"
        " --settings {params.settings:q} --output {params.folder:q} 2> {log:q}"


rule seal_synthetic:
    input:
        unpack(model_seals),
        shards=shard_files,
    output:
        metadata=inside(layout.synthetic("{dataset}", "{seed}"), "metadata.json"),
        seal=seal_of(layout.synthetic("{dataset}", "{seed}")),
    log:
        inside(logs, "seal-synthetic", "{dataset}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "seal-synthetic", "{dataset}", "seed-{seed}.tsv")
    priority: 80
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=60,
        gpu=0,
    params:
        version=1,
        settings=text(experiment.synthesis),
        dataset=lambda wildcards: layout.dataset(wildcards.dataset),
        world_model=lambda wildcards: layout.world_model(wildcards.dataset, wildcards.seed),
        inverse_dynamics=lambda wildcards: layout.inverse_dynamics(wildcards.dataset, wildcards.seed),
        folder=lambda wildcards: layout.synthetic(wildcards.dataset, wildcards.seed),
    shell:
        "exec python -m dawm synthesize --seal --dataset {params.dataset:q}"
        " --world-model {params.world_model:q} --inverse-dynamics {params.inverse_dynamics:q}"
        " --settings {params.settings:q} --output {params.folder:q} 2> {log:q}"


rule assess:
    input:
        dataset=dataset_seal,
        synthetic=seal_of(layout.synthetic("{dataset}", "{seed}")),
        inverse_dynamics=seal_of(layout.inverse_dynamics("{dataset}", "{seed}")),
    output:
        table=inside(layout.assessment("{dataset}", "{seed}"), "fidelity.csv"),
        seal=seal_of(layout.assessment("{dataset}", "{seed}")),
    log:
        inside(logs, "assess", "{dataset}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "assess", "{dataset}", "seed-{seed}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=120,
        gpu=0,
    params:
        version=1,
        settings=text(experiment.assessment),
        dataset=lambda wildcards: layout.dataset(wildcards.dataset),
        synthetic=lambda wildcards: layout.synthetic(wildcards.dataset, wildcards.seed),
        inverse_dynamics=lambda wildcards: layout.inverse_dynamics(wildcards.dataset, wildcards.seed),
        folder=lambda wildcards: layout.assessment(wildcards.dataset, wildcards.seed),
    shell:
        "exec python -m dawm assess --dataset {params.dataset:q} --synthetic {params.synthetic:q}"
        " --inverse-dynamics {params.inverse_dynamics:q} --settings {params.settings:q}"
        " --output {params.folder:q} 2> {log:q}"
