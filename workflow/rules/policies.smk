# One RL run per data set, learner, arm and seed. With compute.seeds_per_job above 1 some seeds share a job: a rule of
# their own for each group, since the outputs of a rule have the same wildcards.

for seeds in policy_groups():

    rule:
        name:
            rule_of(seeds)
        input:
            partial(policy_inputs, seeds),
        output:
            [seal_of(policy_folder("{dataset}", "{algorithm}", "{augmentation}", seed)) for seed in seeds],
        log:
            inside(logs, "train-policy", "{dataset}", "{algorithm}", "{augmentation}", f"{group_name(seeds)}.log"),
        benchmark:
            inside(benchmarks, "train-policy", "{dataset}", "{algorithm}", "{augmentation}", f"{group_name(seeds)}.tsv")
        conda:
            ENVIRONMENT
        threads: evaluators(seeds)
        resources:
            mem_mb=growing(4000 + 300 * (evaluators(seeds) - 1)),
            runtime=growing(480),
            gpu=0,
        params:
            version=2,
            settings=lambda wildcards: text(experiment.algorithm(wildcards.algorithm)),
            dataset=dataset_folder,
            real_fraction=lambda wildcards: matrix.augmentations[wildcards.augmentation].real_fraction,
            runs=partial(run_options, seeds),
            compute=LEARNER_COMPUTE,
        shell:
            "exec python -m dawm train-policy --algorithm {wildcards.algorithm} --dataset {params.dataset:q}"
            " --real-fraction {params.real_fraction} --settings {params.settings:q} {params.compute}"
            " --evaluation-processes {threads} {params.runs:q}"
            " 2> {log:q}"
