"""Sources of captioned images, and the pipeline that batches them."""
