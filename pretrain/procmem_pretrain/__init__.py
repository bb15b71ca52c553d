"""From a seed to a checkpoint: procedural images, self-supervised training, evaluation.

Reading order, a seed's walk: `seeds`, `operations`, `grammar`, `emit_glsl`, `render`, `pool`,
`processes`, `crops`, `descriptors`, `vit`, `losses`, `config`, `objective`, `readout`, `train`,
`checkpoint`, `probes`.
Needs the extra: `pip install 'procmem[pretrain]'`.
"""
