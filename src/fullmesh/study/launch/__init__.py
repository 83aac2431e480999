"""Launch files of training frameworks, both ways: what a plan becomes, and what a user's own file says.

Each format has one module with one table of names: :mod:`megatron` (with MindSpeed-LLM), :mod:`bridge`, :mod:`titan`,
:mod:`deepspeed` and :mod:`mindformers`. :mod:`folder` writes, :mod:`run` reads.
"""
