"""`producer gallery`: a page that shows the input, edges and result of every job."""
