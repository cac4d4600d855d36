"""The card of the weights that a run writes: how they were trained, on whose scans, and how well they do."""

from .. import __version__


def make_card(options, identity, row, names, data_name, torch_version, inherited, facts, recipe=None):
    """The card of a run's network as it is after an epoch; see `model.weights.save_weights`.

    Args:
        options: `Options` of the run.
        identity: of the run, see `start.identity`.
        row: of metrics.csv; its Dice is the network's validation.
        names: of the structures.
        data_name: of the data set.
        torch_version: that it was trained with.
        inherited: what the weights that the run started from are to pass on, see `start.inherited`.
        facts: entries that only a person knows, such as data and licence; they go over all others.
        recipe: name of the recipe that was followed, if one was.
    """
    validation = {"scans": identity["validation"]}
    rights = dict(inherited)
    earlier = rights.pop("earlier_stages")
    if row["dice_mean"] is not None:
        validation["dice_mean"] = round(row["dice_mean"], 4)
        validation["dice"] = {name: row[name] and round(row[name], 4) for name in names}
    return {
        "variant": options.variant,
        "conventional_kernel_size": options.conventional_kernel_size,
        "gabor_kernel_size": options.gabor_kernel_size,
        "in_channels": 1,
        "classes": len(names) + 1,
        "base_channels": options.base_channels,
        "structures": list(names),
        "grid_size": options.grid_size,
        "field": options.field,
        "find_brain": options.find_brain,
        "training": {
            "data": data_name,
            "scans": identity["training"],
            "epoch": row["epoch"],
            **identity["options"],
            "images_per_step": identity["images_per_step"],
            "precision": identity["precision"],
            **({"recipe": recipe} if recipe else {}),
            **({"earlier_stages": earlier} if earlier else {}),
        },
        "scores": {"validation": validation},
        "versions": {"gaborseg": __version__, "torch": torch_version},
        **rights,
        **facts,
    }
