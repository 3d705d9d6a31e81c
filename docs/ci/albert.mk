# Copy beside your Makefile and write there: include albert.mk
# make albert                     export, quantize, gate; fails when a gate does
# make albert-compare BEFORE=DIR  what changed since the release in DIR
ALBERT_DEPLOY   ?= albert-deploy
ALBERT_MODEL    ?= models/albert
ALBERT_DATASET  ?= sst2=data/SST-2
ALBERT_VARIANTS ?= fp32,fp16,int8
ALBERT_OUT      ?= out/albert
BEFORE          ?=

.PHONY: albert albert-compare

albert:
	$(ALBERT_DEPLOY) release '$(ALBERT_MODEL)' --out '$(ALBERT_OUT)' \
		--dataset '$(ALBERT_DATASET)' --variants '$(ALBERT_VARIANTS)'

albert-compare:
	@test -n '$(BEFORE)' || { echo 'say which release to compare with: BEFORE=DIR'; exit 2; }
	$(ALBERT_DEPLOY) compare '$(BEFORE)' '$(ALBERT_OUT)'
