"""Attention motion flow: a video's motion, read from one block's self-attention.

In a diffusion transformer the query of a token resembles the keys of the tokens that show the same thing in
other frames. So a query of frame i, compared with all keys of frame j, says where its content is in frame j:
the mean position of the keys, weighted by attention. That position less the token's own is a displacement
in tokens. The displacements of all tokens, for many pairs of frames, are the video's motion flow. It
is differentiable, so a latent can be moved until its flow is the reference's.

In the order in which they are best read:

* ``pairs``: which frames are compared, and which tokens share a window.
* ``soft_argmax``: the mean position that a query attends to.
* ``flow``: from queries and keys to displacements, and their loss towards a reference's.
* ``window_loss``: FastVMT's second loss, on the keys that are looked at.
* ``reframing``: a reference's motion shifted, scaled or warped before the loss.
"""
