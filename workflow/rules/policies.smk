# One RL run per data set, learner, arm and seed.


rule train_policy:
    input:
        unpack(policy_inputs),
    output:
        policy=inside(POLICY, "policy.safetensors"),
        evaluations=inside(POLICY, "evaluations.csv"),
        seal=seal_of(POLICY),
    log:
        inside(logs, "train-policy", "{dataset}", "{algorithm}", "{augmentation}", "seed-{seed}.log"),
    benchmark:
        inside(benchmarks, "train-policy", "{dataset}", "{algorithm}", "{augmentation}", "seed-{seed}.tsv")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=1440,
        gpu=0,
    params:
        version=1,
        settings=lambda wildcards: text(experiment.algorithm(wildcards.algorithm)),
        dataset=lambda wildcards: layout.dataset(wildcards.dataset),
        synthetic=synthetic_option,
        real_fraction=lambda wildcards: matrix.augmentations[wildcards.augmentation].real_fraction,
        folder=lambda wildcards: layout.policy(
            Run(wildcards.dataset, wildcards.algorithm, wildcards.augmentation, wildcards.seed)
        ),
    shell:
        "exec python -m dawm train-policy --algorithm {wildcards.algorithm} --dataset {params.dataset:q}"
        " {params.synthetic:q} --real-fraction {params.real_fraction} --settings {params.settings:q}"
        " --seed {wildcards.seed} --output {params.folder:q} 2> {log:q}"
