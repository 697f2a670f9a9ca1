# The models that synthetic transitions need. They come first: everything augmented waits for them. The seal is all that
# Snakemake knows of: it takes outputs away before it starts a job again, and weights that are finished are kept.


rule train_world_model:
    input:
        unpack(teacher_seals),
    output:
        seal_of(layout.world_model("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "train-world-model", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "train-world-model", "{dataset}", "{generator}", "seed-{seed}.tsv")
    priority: 100
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(480),
        gpu=0,
    params:
        version=model_version,
        settings=part("world_model"),
        compute=MODEL_COMPUTE,
        dataset=dataset_folder,
        teachers=teacher_options,
        folder=recipe_folder("world_model"),
    shell:
        "exec python -m dawm train-world-model --dataset {params.dataset:q} --settings {params.settings:q}"
        " {params.teachers:q} {params.compute} --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"


# Models that are one step of the data each; what trains them differs by a name.
for model in ("inverse_dynamics", "forward_dynamics", "cloned_policy"):
    stage = f"train-{model.replace('_', '-')}"

    rule:
        name:
            f"train_{model}"
        input:
            dataset_seal,
        output:
            seal_of(getattr(layout, model)("{dataset}", "{generator}", "{seed}")),
        log:
            inside(logs, stage, "{dataset}", "{generator}", "seed-{seed}.log"),
        benchmark:
            inside(benchmarks, stage, "{dataset}", "{generator}", "seed-{seed}.tsv")
        priority: 90
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(480),
            gpu=0,
        params:
            version=1,
            stage=stage,
            settings=part(model),
            compute=MODEL_COMPUTE,
            dataset=dataset_folder,
            folder=recipe_folder(model),
        shell:
            "exec python -m dawm {params.stage} --dataset {params.dataset:q} --settings {params.settings:q}"
            " {params.compute} --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"
