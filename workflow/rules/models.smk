# The models that synthetic transitions need. They come first: everything augmented waits for them.


rule train_world_model:
    input:
        unpack(teacher_seals),
    output:
        model=inside(layout.world_model("{dataset}", "{generator}", "{seed}"), "model.safetensors"),
        seal=seal_of(layout.world_model("{dataset}", "{generator}", "{seed}")),
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
        compute=COMPUTE,
        dataset=dataset_folder,
        teachers=teacher_options,
        folder=recipe_folder("world_model"),
    shell:
        "exec python -m dawm train-world-model --dataset {params.dataset:q} --settings {params.settings:q}"
        " {params.teachers:q} {params.compute} --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"


rule train_inverse_dynamics:
    input:
        dataset_seal,
    output:
        model=inside(layout.inverse_dynamics("{dataset}", "{generator}", "{seed}"), "model.safetensors"),
        seal=seal_of(layout.inverse_dynamics("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "train-inverse-dynamics", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "train-inverse-dynamics", "{dataset}", "{generator}", "seed-{seed}.tsv")
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
        settings=part("inverse_dynamics"),
        compute=COMPUTE,
        dataset=dataset_folder,
        folder=recipe_folder("inverse_dynamics"),
    shell:
        "exec python -m dawm train-inverse-dynamics --dataset {params.dataset:q} --settings {params.settings:q}"
        " {params.compute} --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"


rule train_forward_dynamics:
    input:
        dataset_seal,
    output:
        model=inside(layout.forward_dynamics("{dataset}", "{generator}", "{seed}"), "model.safetensors"),
        seal=seal_of(layout.forward_dynamics("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "train-forward-dynamics", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "train-forward-dynamics", "{dataset}", "{generator}", "seed-{seed}.tsv")
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
        settings=part("forward_dynamics"),
        compute=COMPUTE,
        dataset=dataset_folder,
        folder=recipe_folder("forward_dynamics"),
    shell:
        "exec python -m dawm train-forward-dynamics --dataset {params.dataset:q} --settings {params.settings:q}"
        " {params.compute} --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"


rule train_cloned_policy:
    input:
        dataset_seal,
    output:
        model=inside(layout.cloned_policy("{dataset}", "{generator}", "{seed}"), "model.safetensors"),
        seal=seal_of(layout.cloned_policy("{dataset}", "{generator}", "{seed}")),
    log:
        inside(logs, "train-cloned-policy", "{dataset}", "{generator}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "train-cloned-policy", "{dataset}", "{generator}", "seed-{seed}.tsv")
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
        settings=part("cloned_policy"),
        compute=COMPUTE,
        dataset=dataset_folder,
        folder=recipe_folder("cloned_policy"),
    shell:
        "exec python -m dawm train-cloned-policy --dataset {params.dataset:q} --settings {params.settings:q}"
        " {params.compute} --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"
